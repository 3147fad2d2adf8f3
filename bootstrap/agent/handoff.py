"""What a box does with its hand-over: seed, identity check, the report.

It writes below one directory only, secrets readable for root alone. It never prints a value.
docs/architecture.md, "Hand-off document"; docs/phone-home-v1.md, step 4.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attest.transcript import secret_digest
from bootstrap.agent import seeds, ssh
from bootstrap.agent.errors import Code, PeerError
from bootstrap.agent.protocol import HANDOFF_TYPE, Bundle, Dance, Fields, Opened, b64u
from bootstrap.agent.ssh import HostKey
from bootstrap.agent.wrapped import Unwrapped

SEED = Path("/run/doorstep/seed")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_CLOUD = {
    "user_data": "user-data",
    "meta_data": "meta-data",
    "network_config": "network-config",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """A hand-off document that belongs to this box and session; times in unix seconds.

    `proofs` are for the secrets that headquarters wrapped: the site knows those, not the values.
    `renew` says after how many seconds the box renews, 0 for never (and from a site of before).
    `ssh_certificate` is the text of its file; empty from a site of before, or for no SSH host key.
    """

    issued: int
    expires: int
    role: str
    hostname: str
    fqdn: str
    after: str
    chain_pem: str
    ssh_certificate: bytes
    site_root_pem: str
    dns_anchors: str
    seed: Mapping[str, bytes] = field(repr=False)
    secrets: Mapping[str, bytes] = field(repr=False)
    proofs: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    withheld: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    document: bytes = field(default=b"", repr=False)
    renew: int = 0


def read_handoff(opened: Opened, dance: Dance, bundle: Bundle) -> Handoff:
    """Read the plaintext of a bundle; PeerError when it is for another site, box or session."""
    fields = Fields.read(opened.document, None)
    expected = {
        "type": HANDOFF_TYPE,
        "site": dance.anchor.site_id,
        "box": str(dance.hello.box),
        "session": b64u(dance.session.session),
    }
    for name, value in expected.items():
        if fields.take(name, str) != value:
            raise _wrong(f"the hand-off is for another {name}")
    issued, expires = fields.number("issued", 64), fields.number("expires", 64)
    if not issued < expires or not issued < bundle.expires:
        raise PeerError(Code.BUNDLE_EXPIRED, "the hand-off ended before it was issued")
    after = fields.take("after", str)
    if after not in ("power-off", "stay"):
        raise _wrong("the hand-off asks for an unknown step afterwards")
    cloud, identity = Fields(fields.take("nocloud", dict)), Fields(fields.take("identity", dict))
    certificate = identity.optional("ssh", str)
    return Handoff(
        issued=issued,
        expires=expires,
        role=fields.take("role", str),
        hostname=fields.take("hostname", str),
        fqdn=fields.take("fqdn", str),
        after=after,
        chain_pem=identity.take("chain_pem", str),
        ssh_certificate=ssh.check_certificate(certificate, dance.ssh_host_key)
        if certificate is not None
        else b"",
        site_root_pem=Fields(fields.take("trust", dict)).take("site_root_pem", str),
        dns_anchors=_dns_anchors(fields.take("trust", dict)),
        seed={file: cloud.data(name) for name, file in _CLOUD.items()},
        secrets=_secrets(fields.take("secrets", list)),
        withheld=tuple(_names(fields.take("withheld", list))),
        checks=tuple(str(one) for one in fields.take("checks", list)),
        document=opened.document,
        renew=fields.optional("renew", int) or 0,
    )


def add_unwrapped(handoff: Handoff, unwrapped: Mapping[str, Unwrapped]) -> Handoff:
    """Add what was opened of wrapped secrets, withheld no longer; PeerError for a wrong name."""
    if any(name in handoff.secrets or not _NAME.match(name) for name in unwrapped):
        raise _wrong("a wrapped secret has the name of another one, or one that is no file name")
    values = {name: one.value for name, one in unwrapped.items()}
    return replace(
        handoff,
        secrets={**handoff.secrets, **values},
        proofs={name: one.proof for name, one in unwrapped.items()},
        withheld=tuple(name for name in handoff.withheld if name not in unwrapped),
    )


def _dns_anchors(trust: dict[str, object]) -> str:
    """Write the site's DNSSEC trust anchors one a line, as resolvers read them; older sites: none.

    systemd's dnssec-trust-anchors.d(5), and every validator that reads DS records.
    """
    if "dns" not in trust:
        return ""
    dns = Fields(Fields(trust).take("dns", dict))
    zone, lines = dns.take("zone", str), dns.take("ds", list)
    return "".join(f"{zone} IN DS {one}\n" for one in map(str, lines))


def write_seed(handoff: Handoff, host_key: HostKey, directory: Path) -> None:
    """Write the seed beside its place, then put it there as a whole."""
    fresh = directory.with_name(directory.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for part in (fresh, *(fresh / name for name in ("secrets", "identity", "trust", "ssh"))):
        part.mkdir(parents=True, mode=0o700)
    for name, data in handoff.seed.items():
        _write(fresh / name, data)
    for name, value in handoff.secrets.items():
        _write(fresh / "secrets" / name, value)
    _write(fresh / "identity/chain.pem", handoff.chain_pem.encode())
    _write(fresh / "trust/site-root.pem", handoff.site_root_pem.encode())
    _write(fresh / "trust/dns.positive", handoff.dns_anchors.encode())
    _write(fresh / "ssh" / ssh.FILE, host_key.private)
    _write(fresh / "ssh" / f"{ssh.FILE}.pub", host_key.public_line)
    is_certified = bool(handoff.ssh_certificate)
    if is_certified:
        _write(fresh / "ssh" / ssh.CERTIFICATE, handoff.ssh_certificate)
    _write(fresh / "ssh" / ssh.HINT, ssh.sshd_hint(f"{directory}/ssh", is_certified=is_certified))
    seeds.put(fresh, directory)


def check_identity(handoff: Handoff, sign: Callable[[bytes], bytes], challenge: bytes) -> bool:
    """Tell whether what the TPM's device key signs verifies under the new certificate."""
    from bootstrap.agent.signature import leaf_key, verify_pair

    message = b"doorstep/v1/identity-check\0" + challenge
    return verify_pair(leaf_key(handoff.chain_pem.encode()), message, sign(message))


def digests(handoff: Handoff, opened: Opened) -> dict[str, bytes]:
    """Give for each secret the MAC that proves to the site that the box has it."""
    known = {**handoff.secrets, **handoff.proofs}
    return {n: secret_digest(opened.content_key, n, v) for n, v in known.items()}


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)


def _secrets(items: list[Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in items:
        fields = Fields(item if isinstance(item, dict) else {})
        name = fields.take("name", str)
        # The name becomes a file name.
        if not _NAME.match(name) or name in found:
            raise _wrong("the hand-off holds a secret with a name that is no file name")
        found[name] = fields.data("value")
    return found


def _names(items: list[Any]) -> list[str]:
    return [str(item.get("name", "?")) for item in items if isinstance(item, dict)]


def _wrong(sentence: str) -> PeerError:
    return PeerError(Code.HANDOFF, sentence)
