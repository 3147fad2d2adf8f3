"""A canary lives in the cache, and is looked for wherever something of it could be left.

Threats 22 and 33: the bus of the TPM, the database and its log, what was deleted, logs, errors,
argument lists, environments, core dumps. The keys of the cache, their shares and the owner's
passwords are looked for beside it.
"""

from __future__ import annotations

import os
import secrets
import signal
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from keys_site import SITE_TOML, USERS, code, request
from test_lease_service import TIERS, LeasedSite
from tpm2_pytss import ESAPI
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG
from tpm_wire import Wire

from keys.cachekey import open_escrow
from keys.envelope import b64u
from keys.io.rpc import RpcError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_made import Made
from keys.io.tpm_ring import TpmRing
from keys.io.vault import Vault
from keys.lease import SignedLease
from keys.lease_request import LeaseRequest
from keys.tpm_objects import Index

CANARY = b"canary-" + secrets.token_hex(16).encode()


class WatchedSite(LeasedSite):
    """A leased site with something on the wire of its TPM that writes down what passes."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        super().__init__()
        directory = self.base / "wire"
        directory.mkdir(mode=0o755)
        self.record = directory / "wire.bin"
        self.wire = Wire(directory, record=self.record, tpm=self.tpm)
        self.open_socket()
        table = f'[controller]\ntpm = "{self.wire.tcti}"\nroot = "verity"\n'
        self.write("site.toml", SITE_TOML.replace(TIERS, table))

    def open_socket(self) -> None:
        super().open_socket()
        for path in self.wire.sockets if self.wire else ():
            os.chown(path, USERS["keys"], USERS["keys"])

    def close(self) -> None:
        if self.wire is not None:
            self.wire.close()
        super().close()


@pytest.fixture
def site() -> Iterator[WatchedSite]:
    one = WatchedSite()
    yield one
    one.close()


def forms(value: bytes) -> set[bytes]:
    """A value as bytes, hex and base64, also in the middle of something longer."""
    found = {value, value.hex().encode(), value.hex().upper().encode()}
    for encode in (b64encode, urlsafe_b64encode):
        for before in range(3):
            text = encode(bytes(before) + value)
            found.add(text[-(-before * 8 // 6) + (before > 0) : len(text) - 4])
    return found


def holders(place: Path, value: bytes) -> list[Path]:
    """Name the files that hold a value in any form."""
    wanted = forms(value)
    files = [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if any(one in path.read_bytes() for one in wanted)]


def life(site: WatchedSite) -> None:
    """Everything that a secret meets: leases, boxes, refusals, errors, cuts, revocations."""
    site.ready()
    site.put(value=CANARY)
    site.put("wifi-psk", CANARY)
    site.operator("lease_apply", lease=site.issue_lease())
    assert site.given()
    site.put(value=CANARY)
    for name in ("no-such", "vault-key"):
        with pytest.raises(RpcError) as caught:
            site.put(name, CANARY)
        assert CANARY.decode() not in str(caught.value)
    site.operator("revoke", ek_name=b64u(b"\0\x0b" + bytes(32)))
    site.kill()
    site.start()
    assert site.given(reset_count=8)
    site.power_cycle()
    site.start()
    site.operator("lease_end")
    assert code(site.operator, "secret_put", name="pos-api-token", value=b64u(CANARY))
    assert code(site.control, "handover", **request(reset_count=9)) == "LEASE-ENDED"
    site.operator("lease_apply", lease=site.issue_lease())
    assert site.given(reset_count=10)
    site.put("wifi-psk", CANARY)
    site.operator("secret_remove", name="wifi-psk")


def inner(site: WatchedSite) -> dict[str, bytes]:
    """What nobody outside may see, opened as the process does; it must not run now."""
    store = Store(site.layout.state / "keys" / "keys.db")
    assert site.wire is not None
    ring = TpmRing(site.layout, store, site.wire.tcti, "shop-0417")
    Vault(store, ring, "shop-0417")
    ring.open()
    stored, slot = store.meta("tpm"), store.slot(ring.epoch)
    assert stored is not None and slot is not None and ring.lease is not None
    made = Made.read(stored)
    with Tpm(site.wire.tcti, storage_name=made.storage_name) as tpm:
        lease = SignedLease.read(ring.lease.text())
        shares = {
            "lease share": tpm.unseal(
                made.lease_share, tpm.under_lease(lease, made.authority_key)
            ).reveal(),
            "epoch share": tpm.unseal(slot, tpm.at_counter(Index.EPOCH, ring.epoch)).reveal(),
        }
    keys = {f"key {name}": ring.key(name).reveal() for name in ("site", "boot", "device")}
    found = {"canary": CANARY, **shares, **keys}
    ring.close()
    store.close()
    return found


def test_nothing_of_a_secret_is_left_anywhere(site: WatchedSite) -> None:
    life(site)
    asked = LeaseRequest.read(site.operator("lease_request")["request"])
    passwords = open_escrow(asked.escrow, site.authority, site="shop-0417").reveal()
    _nothing_in_processes(site, {"canary": CANARY, "passwords": passwords[:32]})
    site.kill()
    hidden = inner(site) | {"owner": passwords[:32], "lockout": passwords[32:]}
    assert len(hidden) == 8
    for name, value in hidden.items():
        inside = site.tpm.state / "tpm2-00.permall"  # the TPM's own memory
        assert holders(site.base, value) in ([], [inside]), name
    # and the search finds what is there
    stored = Store(site.layout.state / "keys" / "keys.db")
    made = Made.read(stored.meta("tpm") or b"")
    stored.close()
    assert site.record in holders(site.base, made.lease_share.public)


def test_the_search_would_find_it(site: WatchedSite, tmp_path: Path) -> None:
    """A command that is not encrypted shows what it carries, and so does each form in a file."""
    assert site.wire is not None
    esys = ESAPI(site.wire.tcti)
    esys.hash(CANARY, TPM2_ALG.SHA256, ESYS_TR.NULL)
    esys.close()
    assert holders(site.base, CANARY) == [site.record]
    for number, form in enumerate(
        (CANARY, CANARY.hex().encode(), b64encode(b"x" + CANARY), b64u(b"xy" + CANARY).encode())
    ):
        path = tmp_path / f"form-{number}"
        path.write_bytes(b"before" + form + b"after")
        assert path in holders(tmp_path, CANARY), form


def test_a_crash_leaves_no_core(site: WatchedSite) -> None:
    """Threat 33: the kernel says itself whether it wrote one."""
    site.ready()
    site.put(value=CANARY)
    os.kill(site.child, signal.SIGTRAP)  # SIGQUIT may be ignored by who started the tests
    _, status = os.waitpid(site.child, 0)
    site.child = 0
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)


def _nothing_in_processes(site: WatchedSite, hidden: dict[str, bytes]) -> None:
    """Argument lists and environments of everything that was started here."""
    looked = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpid() not in _ancestors(int(process.name)):
                continue
            texts = [(process / name).read_bytes() for name in ("cmdline", "environ")]
        except OSError:
            continue
        looked += 1
        for name, value in hidden.items():
            for text in texts:
                assert not any(one in text for one in forms(value)), (process, name)
    assert looked >= 3  # the keys process, the TPM, what is on its wire


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
        found.append(pid)
    return found
