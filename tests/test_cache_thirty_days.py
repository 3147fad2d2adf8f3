"""Thirty days without a WAN, in seconds: reboots, power cuts, clocks, disks, copies, TPMs.

The real service with a software TPM; its clocks are numbers here, and the TPM's own clock is set
forward beside them. What it gives, refuses and says after each fault is docs/secret-faults.md:
this test writes that table and fails when the file differs (DOORSTEP_WRITE=1 writes it).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cache_lab import HOUR, ControllerTpm
from keys_site import SITE_TOML, request
from small_disk import fill, mounted, run
from test_lease_service import TIERS, LeasedSite

from keys.envelope import b64u
from keys.errors import KeysError
from keys.io.layout import OPERATOR
from keys.io.rpc import Refusal, RpcError
from keys.io.service import Service
from keys.io.tpm import Tpm
from keys.io.tpm_made import Made

DAY = 86_400.0
PAGE = Path(__file__).parents[1] / "docs" / "secret-faults.md"
SECRETS = """
[[secret]]
name = "api-token"
tier = "site"
ttl = "40d"
[[secret]]
name = "short"
tier = "site"
ttl = "14d"
max_stale = "7d"
[[secret]]
name = "wifi-psk"
tier = "boot"
ttl = "40d"
[[secret]]
name = "probe"
tier = "site"
ttl = "40d"
"""
NAMES = ["api-token", "short", "wifi-psk"]
HEAD = """# What the secret cache does when things go wrong

Written by `tests/test_cache_thirty_days.py` from what it saw: the real service and a software TPM,
thirty days without a line to headquarters. Three secrets: `api-token` (tier site, lease of 40
days), `short` (tier site, 14 days and 7 more when there is nothing newer) and `wifi-psk` (tier
boot). The lease of the controller is for 35 powered days, 8 starts and no suspend.

After each row what was broken is repaired, and all three are given again.

| Fault | A box that boots gets | Withheld or refused | The operator reads |
|---|---|---|---|
"""


class Outage(LeasedSite):
    """A leased site in this process, whose clocks are numbers."""

    def __init__(self) -> None:
        self.service: Service | None = None
        self.lease = ""
        self.known: set[str] = set()
        self.wall, self.monotonic, self.boots = time.time(), 0.0, 0
        super().__init__()
        table = f'[controller]\ntpm = "{self.tpm.tcti}"\nroot = "verity"\n'
        text = SITE_TOML.partition("[[secret]]")[0].replace(TIERS, table) + SECRETS
        names = '"pos-api-token", "wifi-psk"'
        self.write("site.toml", text.replace(names, '"api-token", "short", "wifi-psk"'))

    @property
    def database(self) -> Path:
        return self.layout.state / "keys" / "keys.db"

    def start(self, user: str = "keys") -> Outage:
        self.kill()
        times = {"wall": lambda: self.wall, "monotonic": lambda: self.monotonic}
        self.service = Service(self.layout, **times)
        return self

    def kill(self) -> None:
        if self.service is not None:
            with contextlib.suppress(KeysError):
                self.service.close()
        self.service = None

    def stop(self) -> int:
        self.kill()
        return 0

    def open_socket(self) -> None:
        """Leave it as it is: this process is root."""

    def power_cycle(self) -> None:
        """Cut the power of all: what is in /run goes with it."""
        self.kill()
        for path in (self.layout.run / "keys").iterdir():
            path.unlink()
        self.tpm.power_cycle()

    def passes(self, days: float) -> None:
        """Let time pass with the power on."""
        self.wall += days * DAY
        self.monotonic += days * DAY
        with self.sealed() as tpm:
            tpm.advance_clock(tpm.counters().clock + int(days * 24 * HOUR))

    @contextlib.contextmanager
    def sealed(self) -> Iterator[Tpm]:
        """The TPM with what its storage key is called."""
        db = sqlite3.connect(self.database)
        (stored,) = db.execute("SELECT value FROM meta WHERE name='tpm'").fetchone()
        db.close()
        with Tpm(self.tpm.tcti, storage_name=Made.read(stored).storage_name) as tpm:
            yield tpm

    def call(self, user: str, method: str, params: dict[str, Any]) -> Any:
        """Call as the socket does."""
        assert self.service is not None
        one = self.service.methods()[method]
        assert user in one.users
        try:
            return json.loads(json.dumps(one.handler(user, params)))
        except Refusal as refusal:
            raise RpcError(refusal.code, str(refusal)) from None
        except KeysError as error:
            raise RpcError("FAILED", str(error)) from error

    def operator(self, method: str, **params: Any) -> Any:
        return self.call(OPERATOR, method, params)

    def control(self, method: str, **params: Any) -> Any:
        return self.call("control", method, params)

    def seed(self, *names: str) -> None:
        for name in names:
            self.operator("secret_put", name=name, value=b64u(b"not-a-real-value"))

    # what is seen

    def given(self, **changes: Any) -> tuple[list[str], list[str]]:
        """Boot a box; gives what it got, and what was withheld or refused."""
        self.boots += 1
        try:
            reply = self.control("handover", **request(reset_count=1000 + self.boots, **changes))
        except RpcError as error:
            return [], [f"hand-over: {error.code}"]
        return sorted(reply["digests"]), [
            f"`{one['name']}`: {one['reason']}" for one in reply["withheld"]
        ]

    def row(self, fault: str) -> str:
        """Write a row of the table from what is seen now."""
        if self.service is None:
            try:
                self.start()
            except KeysError as error:
                return self._line(fault, "nothing", "keys does not start", str(error))
        given, refused = self.given()
        said = self._said()
        try:
            self.seed("probe")
            # a second version ends the epoch, and with it the disk that is put back afterwards
            self.change("DELETE FROM secrets WHERE name='probe'")
        except RpcError as error:
            refused.append(f"new secrets: {error.code}")
        try:
            self.operator("zone_anchors")
        except RpcError as error:
            refused.append(f"names: {error.code}")
        return self._line(
            fault,
            ", ".join(f"`{name}`" for name in given) or "nothing",
            ", ".join(refused) or "nothing",
            "; ".join(said) or "nothing",
        )

    def _said(self) -> list[str]:
        status = self.operator("status")
        said = list(status["sentences"])
        if withheld := status["secrets"]["withheld"] - 1:  # the probe
            said.append(f"{withheld} of {len(NAMES)} secrets withheld")
        with contextlib.suppress(RpcError):
            closed = self.operator("lease_show")["closed"]
            if closed and closed["sentence"] not in said:
                said.append(closed["sentence"])
        with contextlib.suppress(RpcError):
            said += self.problems() - self.known
        return said

    def problems(self) -> set[str]:
        """What the audit says, for good."""
        return set(self.operator("audit_verify")["problems"])

    def _line(self, *cells: str) -> str:
        text = "| " + " | ".join(cells) + " |"
        for path, name in (
            (self.layout.state, "/var/lib/doorstep"),
            (self.layout.run, "/run/doorstep"),
            (self.layout.site, "/etc/doorstep"),
            (self.tpm.tcti, "device:/dev/tpmrm0"),
        ):
            text = text.replace(str(path), name)
        return re.sub(r"\b(entry|entries) \d+", r"\1 N", text)

    def change(self, *statements: str) -> None:
        """Change the database past the service, as a fault of the disk or a thief does."""
        db = sqlite3.connect(self.database)
        for statement in statements:
            db.execute(statement)
        db.commit()
        db.close()

    @contextlib.contextmanager
    def put_aside(self) -> Iterator[Path]:
        """Stop, keep the disk as it is, and put it back afterwards."""
        self.kill()
        kept = self.base / "aside"
        shutil.copytree(self.layout.state, kept)
        try:
            yield kept
        finally:
            self.kill()
            shutil.rmtree(self.layout.state)
            kept.rename(self.layout.state)

    @contextlib.contextmanager
    def on_a_disk_of(self, size: str) -> Iterator[None]:
        """Put the state on a small disk of its own for a while."""
        self.kill()
        with mounted(self.layout.state, self.base / "state-below", size):
            yield
            self.kill()

    def close(self) -> None:
        self.kill()
        super().close()


@pytest.fixture
def site() -> Iterator[Outage]:
    one = Outage()
    yield one
    one.close()


class Table:
    """The rows, each made by a fault that is repaired afterwards."""

    def __init__(self, site: Outage) -> None:
        self.site = site
        self.rows: list[str] = []

    def is_well(self) -> None:
        """All three are given again."""
        if self.site.service is None:
            self.site.start()
        given, refused = self.site.given()
        if "wifi-psk" not in given:
            self.site.seed("wifi-psk")
            given, _ = self.site.given()
        assert given == NAMES, refused
        self.site.known = self.site.problems()

    @contextlib.contextmanager
    def fault(self, name: str) -> Iterator[None]:
        """Do what the body does, look, and go on as if it had not been."""
        yield
        self.rows.append(self.site.row(name))

    def on_a_copy(self, name: str, *statements: str, do: Callable[[], None] | None = None) -> None:
        """Change the disk while the service is off, look, and put the disk back."""
        with self.site.put_aside():
            self.site.change(*statements)
            if do is not None:
                do()
            self.rows.append(self.site.row(name))
        self.is_well()


def test_thirty_days(site: Outage) -> None:
    """Threats 1 to 4, 5, 6, 14 to 23, 35 to 37, 40."""
    site.ready()
    site.lease = _lease(site)
    site.operator("lease_apply", lease=site.lease)
    site.seed("api-token", "short", "wifi-psk")
    table = Table(site)
    with table.fault("Day 0: none"):
        pass
    _time(site, table)
    _tpm(site, table)
    _disk(site, table)
    _copies(site, table)
    _end(site, table)
    written = HEAD + "\n".join(table.rows) + "\n"
    if os.environ.get("DOORSTEP_WRITE"):
        PAGE.write_text(written)
    assert PAGE.read_text() == written


def _lease(site: Outage, days: int = 35, starts: int = 8) -> str:
    with Tpm(site.tpm.tcti) as tpm:
        now = tpm.counters()
    return site.issue_lease(days * 24, resets_at_most=now.reset_count + starts)


def _time(site: Outage, table: Table) -> None:
    site.passes(10)
    with table.fault("Day 10 without a line to headquarters"):
        pass
    with table.fault("Day 10: power cut"):
        site.power_cycle()
    table.is_well()
    good = site.wall
    with table.fault("The clock is set back by 10 days"):
        site.wall = good - 10 * DAY
    with table.fault("The clock says 1970 after a power cut (no battery)"):
        site.power_cycle()
        site.wall = 0.0
    site.wall = good
    table.is_well()
    with table.fault("The clock leaps a year ahead"):
        site.wall = good + 365 * DAY
    with table.fault("… and the controller starts with that"):
        site.kill()
    site.wall = good
    with table.fault("… and the clock is set right"):
        pass
    site.seed("short")
    site.passes(15)
    with table.fault("Day 25: `short` is 15 days old"):
        pass
    site.passes(7)
    with table.fault("Day 32: `short` is 22 days old"):
        pass
    site.seed("short")
    table.is_well()


def _tpm(site: Outage, table: Table) -> None:
    with table.fault("The TPM does not answer"):
        site.tpm.cut_power()
    site.kill()
    site.tpm.power_on()
    for path in (site.layout.run / "keys").iterdir():
        path.unlink()
    table.is_well()
    state, kept = site.tpm.state, site.base / "tpm-aside"
    site.kill()
    site.tpm.cut_power()
    shutil.copytree(state, kept)
    (site.base / "other").mkdir()
    other = ControllerTpm(site.base / "other")
    other.close()
    for directory, name in ((other.state, "The TPM was cleared or exchanged"),):
        shutil.rmtree(state)
        shutil.copytree(directory, state)
        site.tpm.power_on()
        table.rows.append(site.row(name))
        site.kill()
        site.tpm.cut_power()
    shutil.rmtree(state)
    kept.rename(state)
    site.tpm.power_on()
    for path in (site.layout.run / "keys").iterdir():
        path.unlink(missing_ok=True)
    table.is_well()


def _disk(site: Outage, table: Table) -> None:
    with site.on_a_disk_of("48m"):
        table.is_well()
        with table.fault("The disk is full"):
            fill(site.layout.state / "keys" / "fill")
        (site.layout.state / "keys" / "fill").unlink()
        table.is_well()
        site.kill()
        run("mount", "-o", "remount,ro", site.layout.state)
        table.rows.append(site.row("The disk is read-only when the controller starts"))
        site.kill()
        run("mount", "-o", "remount,rw", site.layout.state)
        table.is_well()
        site.kill()
    table.is_well()
    token = "UPDATE secrets SET {} WHERE name='api-token'"
    flip = token.format("sealed=CAST(X'00'||substr(sealed,2) AS BLOB)")
    table.on_a_copy("A byte of a secret fell over", flip)
    table.on_a_copy("The tier of a secret fell over", token.format("tier='sitf'"))
    moved = ", ".join(
        f"{column}=(SELECT {column} FROM secrets WHERE name='short')"
        for column in ("wrapped", "sealed")
    )
    table.on_a_copy("The row of one secret is put in the place of another", token.format(moved))
    table.on_a_copy("Somebody lengthens the lease of a secret", token.format("expires=expires+1"))
    with site.put_aside():
        site.change("UPDATE leases SET text='DOORSTEP-LEASE-1:AA'")
        table.rows.append(site.row("A stored lease is damaged"))
        site.operator("lease_apply", lease=site.lease)
        table.rows.append(site.row("… and its text is given again"))
    table.is_well()
    table.on_a_copy("An entry of the audit is changed", "UPDATE audit SET entry='{}' WHERE n=3")
    table.on_a_copy(
        "The last entries of the audit are cut off",
        "DELETE FROM audit WHERE n > (SELECT max(n) FROM audit) - 4",
        "DELETE FROM anchors WHERE number > (SELECT max(n) FROM audit)",
    )


def _copies(site: Outage, table: Table) -> None:
    site.kill()
    copy = site.base / "copy"
    shutil.copytree(site.layout.state, copy)
    site.start()
    site.seed("short")
    site.operator("withdraw", boot_set=b64u(b"w" * 32))
    table.is_well()

    def put_back() -> None:
        shutil.rmtree(site.layout.state)
        shutil.copytree(copy, site.layout.state)

    table.on_a_copy("A copy of the disk from before a revocation is put back", do=put_back)
    shutil.rmtree(copy)
    shutil.copytree(site.layout.state, copy)
    site.seed("short")
    version = "A copy of the disk from before the new version of a secret is put back"
    table.on_a_copy(version, do=put_back)
    shutil.rmtree(copy)
    shutil.copytree(site.layout.state, copy)
    assert site.given()[0] == NAMES
    for _ in range(2):
        site.service.tick()  # type: ignore[union-attr]
        site.passes(0.01)
    table.on_a_copy("A copy of the disk with no revocation since is put back", do=put_back)


def _end(site: Outage, table: Table) -> None:
    site.operator("lease_apply", lease=_lease(site, days=2, starts=1))
    table.is_well()
    site.passes(3)
    with table.fault("The powered hours of the lease are used up"):
        pass
    site.operator("lease_apply", lease=_lease(site, starts=1))
    with table.fault("A new lease is taken"):
        pass
    site.power_cycle()
    table.is_well()
    with table.fault("The controller starts more often than its lease allows"):
        site.power_cycle()
    site.operator("lease_apply", lease=_lease(site))
    table.is_well()
    with table.fault("The controller was suspended, and started afresh"):
        site.kill()
        site.tpm.suspend_and_start()
    site.operator("lease_apply", lease=_lease(site))
    table.is_well()
    with table.fault("The operator, or headquarters by telephone, ends the lease"):
        site.operator("lease_end")
    site.operator("lease_apply", lease=_lease(site))
    table.is_well()


def test_what_ended_long_ago_is_shredded(site: Outage) -> None:
    """Threat 34, and 2: a clock that leapt ahead shreds nothing."""
    site.ready()
    site.operator("lease_apply", lease=_lease(site))
    site.seed(*NAMES)
    site.wall += 365 * DAY
    site.monotonic += 60
    site.operator("status")
    site.wall -= 365 * DAY
    assert site.given()[0] == NAMES
    site.passes(27)
    assert site.given() == (["api-token", "wifi-psk"], ["`short`: SECRET-EXPIRED"])
    epoch = site.operator("lease_show")["counters"]["epoch"]
    kept = site.database.read_bytes()
    site.passes(1.1)
    assert site.given() == (["api-token", "wifi-psk"], ["`short`: SECRET-MISSING"])
    assert site.operator("lease_show")["counters"]["epoch"] == epoch + 1
    swept = [one for one in site.operator("events", after=0)["events"] if "swept" in one["kind"]]
    assert [one["detail"]["names"] for one in swept] == [["short"]]
    site.kill()
    for leftover in site.database.parent.glob("keys.db-*"):
        leftover.unlink()
    site.database.write_bytes(kept)
    with pytest.raises(KeysError, match="restored from a copy"):
        site.start()
