"""Shared by the DNS tests: a zone with one of each kind, keys, and three signed zones as a world.

`World` has a root, a zone below it and one below that, an unsigned one, and the resolver of
somebody else in front of them.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from keys.zone_keys import Span, dnskey, ds, point, sign_keys
from netboot.dns import DnsEngine, Generation, signed_zones
from netboot.dns_cache import Known, Trust
from netboot.dnssec import VALID_SECONDS, ZoneKeys, ZoneSigner
from netboot.names import Labels, labels, text, wire
from netboot.rdata import Rtype, show
from netboot.upstream import make_question, read_answer
from netboot.validate import Validator
from netboot.zone import Zone, Zones
from netboot.zone_file import decode_zone

NOW = 1_795_000_000
ORIGIN = labels("example.net")
HEAD = "$TTL 300\n@ SOA ns hostmaster 7 3600 600 604800 30\n@ NS ns\nns A 192.0.2.1\n"
ZONE = (
    HEAD
    + r"""
www 60 A 192.0.2.10
www A 192.0.2.11
alias CNAME www
* TXT "any \"name\"" two
*.wild MX 10 mail
below.exact.wild A 192.0.2.12
sub NS ns.sub
sub NS elsewhere.example.org.
ns.sub A 192.0.2.53
signed NS ns
signed DS 12345 13 2 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
caa CAA 0 issue "ca.example.net"
host SSHFP 4 2 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
_443._tcp.host TLSA 3 1 1 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20
odd\.dot A 192.0.2.13
new TYPE65400 \# 3 abcdef
svc HTTPS 1 . alpn=h2
old DNAME new-place
moved.new-place A 192.0.2.22
$GENERATE 1-3 pos-$ A 10.0.0.$
"""
)
NIC = (
    "$TTL 300\n@ SOA ns.nic hostmaster.nic 7 3600 600 604800 30\n@ NS ns.nic\nns.nic A 192.0.2.1\n"
)
NET = NIC + "plain NS ns.nic\nexample NS ns.nic\n"
ROOT = NIC + "net NS ns.nic\n"
PLAIN = NIC + "www A 192.0.2.20\n"


def zone_keys(origin: Labels = ORIGIN) -> ZoneKeys:
    """Give keys whose key-signing half is thrown away after it signed."""
    ksk, zsk = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    span = Span.starting(NOW, VALID_SECONDS)
    keys, rrsigs = sign_keys(wire(origin), [ksk], [point(zsk.public_key())], span)
    return ZoneKeys(dnskeys=keys, rrsigs=rrsigs, private=zsk)


def zone(content: str = ZONE) -> Zone:
    return decode_zone(content.encode(), ORIGIN, "example.zone")


def key_pair() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class World:
    """Three signed zones and an unsigned one, and a resolver of somebody else in front."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.signers: dict[Labels, ZoneSigner] = {}
        example = self.sign(ZONE, labels("example.net"))
        net = self.sign(NET + f"example DS {show(Rtype.DS, example)}\n", labels("net"))
        root = self.sign(ROOT + f"net DS {show(Rtype.DS, net)}\n", ())
        self.anchors = {(): [root]}
        plain = decode_zone(PLAIN.encode(), labels("plain.net"), "plain")
        zones = Zones([*(one.zone for one in self.signers.values()), plain])
        self.engine = DnsEngine(Zones(()), "resolver")
        self.engine.replace(Generation(zones=signed_zones(zones, {}), signers=self.signers))
        self.lies: dict[tuple[Labels, int], Known] = {}

    def sign(self, content: str, origin: Labels) -> bytes:
        """Sign a zone and give the DS for its parent."""
        ksk, zsk = key_pair(), key_pair()
        span = Span.starting(self.now, VALID_SECONDS)
        keys, rrsigs = sign_keys(wire(origin), [ksk], [point(zsk.public_key())], span)
        zone = decode_zone(content.encode(), origin, text(origin))
        self.signers[origin] = ZoneSigner(zone, ZoneKeys(dnskeys=keys, rrsigs=rrsigs, private=zsk))
        return ds(wire(origin), dnskey(point(ksk.public_key()), is_ksk=True))

    def fetch(self, name: Labels, qtype: int) -> Known:
        lie = self.lies.get((name, qtype))
        if lie is not None:
            return lie
        question = make_question(name, qtype, bytes(40))
        query = question.encode(pads=False)
        reply = self.engine.receive(query, "127.0.0.1", self.now, is_tcp=True)
        assert isinstance(reply, bytes)
        return read_answer(reply, question)

    def check(self, name: str, qtype: int = Rtype.A, known: Known | None = None, **how) -> Trust:
        options = {"now": self.now, "blind": False, "anchors": self.anchors} | how
        validator = Validator(self.fetch, **options)
        found = self.fetch(labels(name), qtype) if known is None else known
        return validator.check(found, labels(name), qtype)
