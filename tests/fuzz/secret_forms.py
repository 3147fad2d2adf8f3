"""The forms of leases, wrapped secrets, parcels and what else headquarters and sites exchange.

Where something signs a form, a changed one that is taken for another is a lie; where a form has
one spelling, so is a second one that is read.
"""

from __future__ import annotations

import random
import re
import struct
from base64 import b32decode, b32encode, b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from attest.ak import qualified_name
from attest.ektemplate import ENDORSEMENT
from attest.wire import Attest, encode_signature
from bootstrap import lease_ledger
from bootstrap.errors import PeerError as BootstrapPeerError
from bootstrap.errors import SiteError as BootstrapSiteError
from bootstrap.lease_desk import check_request, planned_values
from bootstrap.lease_ledger import Appliance, Ledger
from keys import cache as stored
from keys import dated, note, parcel, rootfs, ssh_certificate
from keys.approval import SignedApproval
from keys.errors import PeerError, SiteError
from keys.lease import Lease, Purpose, SignedLease, Terms, reference, sign
from keys.lease_request import HEADER, QUOTED_PCRS, LeaseRequest
from keys.manifest import PublicKey, verify
from keys.manifest import sign as sign_file
from keys.rules import MAX_AHEAD, SecretKind, SecretRule, Tier
from keys.secret import Secret
from keys.signed import NOTE, check_signed
from keys.tpm_objects import Index
from keys.wrap import CONTEXT, Label, Randomness, WrappedSecret, decode_key, key_area, wrap
from tests import forge
from tests.fuzz.lies import REFUSED, TAKEN, Lie

NOW = 1_795_000_000
SITE = "shop-0417"
NV_NAME = Index.LEASE.nv_name
PCRS = {index: bytes([index]) * 32 for index in QUOTED_PCRS}
Attempt = Callable[[bytes], str]


def _drawn(size: int, label: str) -> bytes:
    return random.Random(label).randbytes(size)


def _authority() -> EllipticCurvePrivateKey:
    return forge.private_key("lease authority")


@cache
def signing_key() -> Ed25519PrivateKey:
    """Give the key that headquarters signs files with."""
    return Ed25519PrivateKey.from_private_bytes(_drawn(32, "site key"))


def public_key() -> bytes:
    """Give its public half as a site has it."""
    return PublicKey.of(signing_key().public_key()).encode()


# leases


@cache
def leases() -> tuple[SignedLease, ...]:
    """Give leases that hold: bound to software, bound to none, for another purpose."""
    made = []
    for number, pcrs in ((5, {0, 7}), (6, set[int]()), (1 << 40, set(range(24)))):
        terms = Terms(
            clock_before=(1 << 50) + number,
            resets_at_most=9,
            restarts_at_most=0,
            counter=number,
            pcrs=frozenset(pcrs),
            pcr_digest=bytes(32),
        )
        named = reference(
            site=SITE, ek_name=b"\0\x0b" + bytes(32), counter_name=NV_NAME, purpose=Purpose.CACHE
        )
        lease = Lease(
            site=SITE, purpose=Purpose.CACHE, terms=terms, reference=named, issued=NOW, ends=NOW + 9
        )
        made.append(sign(lease, _authority(), NV_NAME))
    return tuple(made)


def lease(data: bytes) -> str:
    """Read a lease as the site does that is given one."""
    try:
        found = SignedLease.read(data.decode("utf-8", "replace"))
        if SignedLease.read(found.text()) != found:
            raise Lie("a lease is another one after it was written")
        found.lease.terms.policy(NV_NAME)
        found.check(_authority().public_key(), NV_NAME)
    except PeerError:
        return REFUSED
    if found.lease not in [one.lease for one in leases()]:
        raise Lie("a lease that headquarters did not sign holds")
    return TAKEN


def lease_seeds() -> Iterator[bytes]:
    """Give texts, as a terminal breaks them too."""
    for one in leases():
        text = one.text()
        yield text.encode()
        yield "\n".join(text[at : at + 72] for at in range(0, len(text), 72)).lower().encode()


@cache
def requests() -> tuple[LeaseRequest, ...]:
    """Give requests that an appliance's TPM quoted."""
    box = forge.Box(label="appliance")
    made = []
    for counter, challenge in ((4, "7391"), (0, "")):
        blank = LeaseRequest(
            site=SITE,
            challenge=challenge,
            at=NOW,
            lease_counter=counter,
            epoch=2,
            ek=box.ek.encode(),
            ak=box.ak.encode(),
            attest=b"",
            signature=b"",
            escrow=b"e",
            pcrs=PCRS,
        )
        data = Attest(
            qualified_signer=qualified_name(struct.pack(">I", ENDORSEMENT), box.ak.name()),
            extra_data=blank.quoted(),
            clock=forge.CLOCK,
            firmware_version=1,
            attested=forge.quote_info({"sha256": PCRS}),
        ).encode()
        signature = forge.sign(forge.private_key("ak of appliance"), data)
        made.append(replace(blank, attest=data, signature=encode_signature(signature)))
    return tuple(made)


def lease_request(data: bytes) -> str:
    """Judge a request as headquarters does, the text alone or the fields below its letters."""
    text = data.decode("utf-8", "replace")
    with suppress(BootstrapPeerError):
        planned_values(text)
    try:
        asked = check_request(text)
    except BootstrapPeerError:
        return REFUSED
    known = [(one.quoted(), one.pcrs, one.ak, one.attest) for one in requests()]
    found = asked.request
    if (found.quoted(), found.pcrs, found.ak, found.attest) not in known:
        raise Lie("a request that the TPM did not quote is taken")
    return TAKEN


def lease_fields(data: bytes) -> str:
    """Judge any JSON as a request: base32 hides its fields from the mutator."""
    return lease_request((HEADER + b32encode(data).decode().rstrip("=")).encode())


def request_seeds() -> Iterator[bytes]:
    """Give texts of requests, and what tpm2_pcrread prints."""
    yield from (one.text().encode() for one in requests())
    yield b"sha256:\n  0 : 0x" + b"00" * 32 + b"\n  7 : 0x" + b"ab" * 32 + b"\n"


def request_field_seeds() -> Iterator[bytes]:
    """Give the JSON below their letters."""
    for one in requests():
        letters = one.text().removeprefix(HEADER)
        yield from _odd(b32decode(letters + "=" * (-len(letters) % 8)))


@cache
def ledgers() -> tuple[bytes, ...]:
    """Give ledgers as headquarters keeps them."""
    request = requests()[0]
    first = Appliance(site=SITE, ek=request.ek, ak=request.ak, first=NOW)
    made = Ledger(appliance=first).after(4, leases()[0])
    return made.encode(_authority()), Ledger(appliance=first).encode(_authority())


def ledger(data: bytes) -> str:
    """Read a ledger of whoever can write there."""
    try:
        found = lease_ledger.decode(data, _authority().public_key())
    except BootstrapSiteError:
        return REFUSED
    honest = [lease_ledger.decode(one, _authority().public_key()) for one in ledgers()]
    if found not in honest:
        raise Lie("a ledger that headquarters did not seal is taken")
    return TAKEN


# wrapped secrets and signed files


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A file and its signature."""

    data: bytes
    signature: bytes


@cache
def wrapped() -> Signed:
    """Give a wrapped secret as a stick brings it."""
    ek = forge.Box(label="till").ek
    label = Label(
        site=SITE,
        name="vault-key",
        version=3,
        serial="S-1",
        issued=NOW,
        expires=NOW + 9,
        ek_name=ek.name(),
        key_name=key_area(forge.private_key("wrap key").public_key()).name(),
    )
    randomness = Randomness.cut(_drawn(Randomness.SIZE, "wrap"))
    data = wrap(label, Secret(b"value"), ek=ek, randomness=randomness).encode()
    signature = sign_file(signing_key(), data, trusted_comment=label.comment(), context=CONTEXT)
    return Signed(data=data, signature=signature)


def wrapped_secret(data: bytes) -> str:
    """Read a file whose signature is that of an honest one; then any file without one."""
    known = wrapped()
    with suppress(PeerError):
        WrappedSecret.verify(data, known.signature, public_key=public_key(), site_id=SITE)
        if data != known.data:
            raise Lie("a wrapped secret that headquarters did not sign is taken")
    with suppress(PeerError):
        decode_key(data)
    try:
        found = WrappedSecret.decode(data)
    except PeerError:
        return REFUSED
    if found.encode() != data:
        raise Lie("another spelling of a wrapped secret is read")
    found.label.policy()
    found.label.comment()
    return TAKEN


def wrapped_seeds() -> Iterator[bytes]:
    """Give a wrapped secret, a revocation, the public half of a wrap key."""
    data = wrapped().data
    yield from _odd(data)
    yield replace(WrappedSecret.decode(data), sealed=None).encode()
    yield key_area(forge.private_key("wrap key").public_key()).encode()


@cache
def delivery_note() -> Signed:
    """Give a delivery note as headquarters signs it."""
    entry = note.Entry(serial="S-1", model="M", ek_sha256=bytes(range(32)), role="pos", name=None)
    data = note.encode((entry, replace(entry, serial="S-2", ek_sha256=None)))
    signature = sign_file(
        signing_key(), data, trusted_comment=f"site={SITE} counter=3", context=NOTE.context
    )
    return Signed(data=data, signature=signature)


def minisig(data: bytes) -> str:
    """One byte chooses what the rest replaces: signature, public key, or the signed file."""
    known = delivery_note()
    parts = [known.signature, public_key(), known.data]
    parts[data[0] % 3 if data else 0] = data[1:]
    signature, public, text = parts
    try:
        verify(public, text, signature, context=NOTE.context)
        found = check_signed(NOTE, text, signature, public_key=public, site_id=SITE)
    except PeerError:
        return REFUSED
    if (found.data, found.counter, found.site) != (known.data, 3, SITE):
        raise Lie("a file that headquarters did not sign is taken")
    return TAKEN


def minisig_seeds() -> Iterator[bytes]:
    """Give each part as it is."""
    known = delivery_note()
    for number, part in enumerate((known.signature, public_key(), known.data)):
        yield bytes([number]) + part


@cache
def _approval() -> SignedApproval:
    return SignedApproval(
        site=SITE,
        ek_name=b"\0\x0b" + bytes(32),
        role="pos",
        reasons=frozenset({"EK-UNLISTED", "FACTS-DIFFER"}),
        measurements=bytes(32),
        sealed=bytes(32),
        until=NOW,
        claim="the label says S-2",
    )


@cache
def _parcels() -> tuple[bytes, ...]:
    item = parcel.Item(name="token", version=2, not_after=NOW, value=Secret(b"v"))
    seed = parcel.Seed(site=SITE, counter=3, items=(item,))
    listing = bytes(range(32))
    part = parcel.Part(site=SITE, listing=listing, number=1, is_last=True, items=(item,))
    header = parcel.Header(
        site=SITE,
        ek=b"\0\x0b" + bytes(32),
        at=NOW,
        epoch=2,
        lease_counter=4,
        audit_number=7,
        audit_hash=bytes(32),
        secrets=1,
        listing=listing,
        recipient=parcel.recipient(Secret(_drawn(32, "off-site key"))),
    )
    asked = parcel.asked_document(SITE, header.recipient, None)
    return seed.encode(), part.encode(), header.encode(), asked


def documents(data: bytes) -> str:
    """Read notes, approvals and what a parcel holds, each from any bytes."""
    told = REFUSED
    for read in (
        note.decode,
        parcel.Seed.decode,
        parcel.Part.decode,
        parcel.read_asked,
        lambda one: _same(one, SignedApproval.decode(one).encode()),
        lambda one: _same(one, parcel.Header.decode(one).encode()),
    ):
        with suppress(PeerError):
            read(data)
            told = TAKEN
    return told


def _odd(data: bytes) -> Iterator[bytes]:
    """Give a JSON document, and what JSON allows in it and Python minds."""
    yield data
    for odd in (b"1e999", b"-1", b"9" * 5000, b'"\\ud800"', b"true", b"null", b"[]", b"{}"):
        for place in re.finditer(rb':\s*("[^"]*"|\d+)', data):
            yield data[: place.start(1)] + odd + data[place.end(1) :]


def _same(data: bytes, again: bytes) -> None:
    if data != again:
        raise Lie("another spelling of the same value was read")


def document_seeds() -> Iterator[bytes]:
    """Give one of each."""
    yield delivery_note().data
    for one in (_approval().encode(), *_parcels()):
        yield from _odd(one)


# certificates and rows


@cache
def _host_certificate() -> bytes:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + signing_key().public_key().public_bytes_raw()
    names = ssh_certificate.HostNames(
        hostname="pos-01", fqdn="pos-01.shop-0417.example.net", addresses=()
    )
    return ssh_certificate.issue(
        forge.private_key("ssh authority"),
        public=blob,
        identity="doorstep:shop-0417:box:1",
        names=names,
        serial=7,
        now=NOW,
        not_after=NOW + 9,
    ).encode()


def host_certificate(data: bytes) -> str:
    """Read a host certificate; another one under the same authority is a lie."""
    try:
        found = ssh_certificate.read(data)
    except PeerError:
        return REFUSED
    honest = ssh_certificate.read(_host_certificate())
    if found.authority == honest.authority and found != honest:
        raise Lie("a certificate that the authority did not sign is read as its own")
    return TAKEN


def host_seeds() -> Iterator[bytes]:
    """Give a host certificate, and a plain key."""
    line = _host_certificate()
    yield line
    kind, blob = line.split()[:2]
    compressed = b64decode(blob).replace(b"\0\0\0A\4", b"\0\0\0A\2")
    yield b" ".join((kind, b64encode(compressed)))
    yield b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA=="


def dated_file(data: bytes) -> str:
    """Read the end of a certificate, a license, and of a day that somebody typed."""
    told = REFUSED
    with suppress(PeerError):
        dated.read_until(data[:64].decode("utf-8", "replace"))
        told = TAKEN
    for kind in (SecretKind.CERTIFICATE, SecretKind.LICENSE):
        rule = SecretRule(name="x", tier=Tier.SITE, ttl=MAX_AHEAD, kind=kind)
        for until in (None, "2027-01-31"):
            with suppress(PeerError):
                if (
                    not NOW
                    < dated.end_of(rule, data, until, NOW)
                    <= NOW + MAX_AHEAD.total_seconds()
                ):
                    raise Lie("it has ended, or never ends")
                told = TAKEN if kind is SecretKind.CERTIFICATE or until is None else told
    return told


def dated_seeds() -> Iterator[bytes]:
    """Give a certificate in PEM and DER, and days."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "till")])
    key = forge.private_key("dated")
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(7)
    made = made.public_key(key.public_key()).not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
    found = made.not_valid_after(datetime(2040, 1, 1, tzinfo=UTC)).sign(key, hashes.SHA256())
    yield found.public_bytes(Encoding.PEM)
    yield found.public_bytes(Encoding.DER)
    yield from (b"2027-01-31", b"2027-01-31T12:00Z", b"31.1.2027")


def mounts(data: bytes) -> str:
    """Read what the kernel says of mounts."""
    text = data.decode("utf-8", "replace")
    found = rootfs.decode_mounts(text)
    known = {"8:2": rootfs.Device(name="sda2")}
    seen = rootfs.judge(found, known, ["/", "/opt/doorstep"])
    if seen.root not in (None, rootfs.RootFs.NONE):
        raise Lie("a plain disk is said to be protected")
    return TAKEN if found else REFUSED


def mount_seeds() -> Iterator[bytes]:
    """Give the tables of some machines."""
    yield b"27 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw\n"
    yield b"27 1 0:52 / / rw - overlay overlay rw\n31 27 8:2 / /opt/a\\040b ro - ext4 x ro\n"


_KEY = Secret(_drawn(32, "cache key"))


@cache
def _row() -> stored.Row:
    label = stored.Label(name="token", version=2, tier=Tier.SITE, set_at=NOW, expires=NOW + 9)
    drawn = _drawn(stored.RANDOM_SIZE, "row")
    return stored.lock(Secret(b"value"), cache_key=_KEY, label=label, site_id=SITE, drawn=drawn)


def row(data: bytes) -> str:
    """Open a stored row of which a part was replaced; one byte chooses which."""
    known, which = _row(), data[0] % 3 if data else 0
    rest = data[1:]
    changed = (
        replace(known, wrapped=rest),
        replace(known, sealed=rest),
        replace(known, label=replace(known.label, name=rest.decode("utf-8", "replace"))),
    )[which]
    try:
        value = stored.unlock(changed, cache_key=_KEY, site_id=SITE)
    except SiteError:
        return REFUSED
    if changed != known or value.reveal() != b"value":
        raise Lie("a row that was changed opens")
    return TAKEN


def row_seeds() -> Iterator[bytes]:
    """Give each part as it is."""
    known = _row()
    yield b"\0" + known.wrapped
    yield b"\1" + known.sealed
    yield b"\2" + known.label.name.encode()


FORMS: dict[str, tuple[Attempt, Callable[[], Iterator[bytes]], int]] = {
    "lease": (lease, lease_seeds, 2048),
    "lease-request": (lease_request, request_seeds, 8192),
    "lease-fields": (lease_fields, request_field_seeds, 8192),
    "ledger": (ledger, lambda: iter(ledgers()), 16384),
    "wrapped-secret": (wrapped_secret, wrapped_seeds, 8192),
    "minisig": (minisig, minisig_seeds, 4096),
    "documents": (documents, document_seeds, 4096),
    "ssh-certificate": (host_certificate, host_seeds, 4096),
    "dated": (dated_file, dated_seeds, 8192),
    "mounts": (mounts, mount_seeds, 4096),
    "stored-row": (row, row_seeds, 1024),
}
"""By name: what is done with any bytes, where it begins, how large an input may be."""
