"""Signatures of others: a root, a zone below it and one below that, each lie refused by name."""

from __future__ import annotations

from base64 import b32hexencode
from dataclasses import replace

import pytest
from dns_lab import NOW, World

from netboot.dns_cache import Known, Trust
from netboot.dnssec import VALID_SECONDS
from netboot.names import labels, wire
from netboot.nsec3 import Chain, bitmap, hash_of
from netboot.rdata import Rtype
from netboot.validate import ROOT_ANCHORS, BogusError, limited
from netboot.zone import Rcode, RRset


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("name", "qtype"),
    [
        ("www.example.net", Rtype.A),
        ("alias.example.net", Rtype.A),
        ("any.thing.example.net", Rtype.TXT),
        ("nothing.example.net", Rtype.MX),
        ("www.example.net", Rtype.AAAA),
        ("exact.wild.example.net", Rtype.A),
        ("nothing.exact.wild.example.net", Rtype.A),
        ("moved.old.example.net", Rtype.A),
        ("nothing.old.example.net", Rtype.A),
        ("moved.old.example.net", Rtype.CNAME),
        ("example.net", Rtype.DS),
        ("plain.net", Rtype.DS),
        ("nothing.net", Rtype.A),
        ("nothing", Rtype.A),
        ("", Rtype.DNSKEY),
    ],
)
def test_what_is_signed_to_the_root_is_secure(world: World, name: str, qtype: int) -> None:
    assert world.check(name, qtype) is Trust.SECURE


@pytest.mark.parametrize("name", ["www.plain.net", "nothing.plain.net"])
def test_below_a_delegation_that_is_proved_unsigned_it_is_insecure(world: World, name: str) -> None:
    assert world.check(name) is Trust.INSECURE


def test_without_an_anchor_nothing_is_secure_and_nothing_bogus(world: World) -> None:
    assert world.check("www.example.net", anchors={}) is Trust.INSECURE
    island = {labels("example.net"): world.anchors[()]}
    assert world.check("www.plain.net", anchors=island) is Trust.INSECURE


def changed(known: Known, rtype: int, **changes: object) -> Known:
    answers = tuple(
        replace(one, **changes) if one.rtype == rtype else one  # type: ignore[arg-type]
        for one in known.answers
    )
    return replace(known, answers=answers)


def without(known: Known, *types: int) -> Known:
    def keep(rrsets: tuple[RRset, ...]) -> tuple[RRset, ...]:
        return tuple(one for one in rrsets if one.rtype not in types)

    return replace(known, answers=keep(known.answers), authority=keep(known.authority))


def test_other_data_under_the_same_signature_is_bogus(world: World) -> None:
    known = world.fetch(labels("www.example.net"), Rtype.A)
    with pytest.raises(BogusError, match="www.example.net"):
        world.check("www.example.net", known=changed(known, Rtype.A, rdatas=(b"\1\2\3\4",)))


def test_a_signature_taken_away_is_bogus_in_a_signed_zone_alone(world: World) -> None:
    known = world.fetch(labels("www.example.net"), Rtype.A)
    with pytest.raises(BogusError, match="no signature, though its zone is signed"):
        world.check("www.example.net", known=without(known, Rtype.RRSIG))


@pytest.mark.parametrize("name", ["nothing.example.net", "nothing.exact.wild.example.net"])
def test_an_absence_without_its_proof_is_bogus(world: World, name: str) -> None:
    known = world.fetch(labels(name), Rtype.A)
    bare = replace(known, authority=tuple(one for one in known.authority if one.rtype == Rtype.SOA))
    with pytest.raises(BogusError, match="no proof|no signature"):
        world.check(name, known=bare)


def test_the_proof_for_another_name_proves_nothing(world: World) -> None:
    other = world.fetch(labels("nothing.exact.wild.example.net"), Rtype.A)
    with pytest.raises(BogusError, match="proof"):
        world.check("www.example.net", known=other)
    no_type = world.fetch(labels("www.example.net"), Rtype.AAAA)
    with pytest.raises(BogusError, match="no such type"):
        world.check("www.example.net", Rtype.A, known=no_type)


def test_a_wildcards_answer_for_a_name_that_exists_is_bogus(world: World) -> None:
    known = world.fetch(labels("any.example.net"), Rtype.TXT)
    www = labels("www.example.net")
    moved = replace(known, answers=tuple(replace(one, owner=www) for one in known.answers))
    with pytest.raises(BogusError, match="a wildcard without its proof"):
        world.check("www.example.net", Rtype.TXT, known=moved)


def test_a_signature_that_does_not_hold_hides_no_wildcard(world: World) -> None:
    """The one that holds says how many labels were signed, whatever stands before it."""
    known = world.fetch(labels("any.example.net"), Rtype.TXT)
    name = labels("www.example.net")
    signed = next(one for one in known.answers if one.rtype == Rtype.RRSIG).rdatas[0]
    false = signed[:3] + b"\3" + signed[4:-1] + b"x"
    moved = tuple(
        replace(one, owner=name, rdatas=(false, signed) if one.rtype == Rtype.RRSIG else one.rdatas)
        for one in known.answers
    )
    with pytest.raises(BogusError, match="wildcard without its proof"):
        world.check("www.example.net", Rtype.TXT, known=replace(known, answers=moved))


def test_an_answer_lives_no_longer_than_was_signed(world: World) -> None:
    known = world.fetch(labels("www.example.net"), Rtype.A)
    longer = tuple(replace(one, ttl=80_000) for one in known.answers)
    assert [one.ttl for one in limited(longer, NOW)] == [60, 60]
    assert [one.ttl for one in limited(longer, None)] == [60, 60]
    assert limited(known.answers, NOW) == known.answers
    at_the_end = NOW + VALID_SECONDS - 10
    assert all(0 <= one.ttl <= 10 for one in limited(known.answers, at_the_end))
    assert [one.ttl for one in limited(known.answers, NOW + 2 * VALID_SECONDS)] == [0, 0]
    cut_off = replace(longer[1], rdatas=(b"\0\1",))
    assert limited((longer[0], cut_off), NOW) == (longer[0], cut_off)


def test_a_dname_moves_names_to_its_own_target_alone(world: World) -> None:
    known = world.fetch(labels("moved.old.example.net"), Rtype.A)
    assert [one.rtype for one in known.answers] == [
        *(Rtype.DNAME, Rtype.RRSIG, Rtype.CNAME, Rtype.A, Rtype.RRSIG)
    ]
    elsewhere = changed(known, Rtype.CNAME, rdatas=(wire(labels("www.example.net")),))
    with pytest.raises(BogusError, match="no signature"):
        world.check("moved.old.example.net", Rtype.CNAME, known=elsewhere)
    forged = changed(known, Rtype.DNAME, rdatas=(wire(labels("evil.example.net")),))
    with pytest.raises(BogusError):
        world.check("moved.old.example.net", known=forged)


def test_a_zone_whose_delegation_is_hidden_is_not_believed_unsigned(world: World) -> None:
    example = labels("example.net")
    lies = world.lies
    try:
        lies[example, Rtype.DS] = without(world.fetch(example, Rtype.DS), Rtype.DS, Rtype.RRSIG)
        with pytest.raises(BogusError):
            world.check("www.example.net")
        lies[example, Rtype.DS] = world.fetch(labels("plain.net"), Rtype.DS)
        with pytest.raises(BogusError):
            world.check("www.example.net")
        lies[example, Rtype.DS] = world.fetch(labels("nothing.net"), Rtype.DS)
        with pytest.raises(BogusError):
            world.check("www.example.net")
    finally:
        lies.clear()


def test_a_delegation_hidden_with_the_proof_of_its_absence_is_not_believed_unsigned(
    world: World,
) -> None:
    """Whoever sits between takes every signature and every proof away."""
    example, known = labels("example.net"), world.fetch(labels("www.example.net"), Rtype.A)
    try:
        for rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
            world.lies[example, Rtype.DS] = Known(rcode=rcode)
            with pytest.raises(BogusError, match="no proof that it is not a signed zone"):
                world.check("www.example.net", known=without(known, Rtype.RRSIG))
            with pytest.raises(BogusError, match="no zone, and no proof"):
                world.check("www.example.net", known=known)
            with pytest.raises(BogusError):
                world.check("www.example.net", known=Known(rcode=rcode))
    finally:
        world.lies.clear()


def test_a_name_that_is_no_zone_signs_nothing(world: World) -> None:
    """A signature in the name of its own owner, who is proved to have no DS."""
    known = world.fetch(labels("www.example.net"), Rtype.A)
    name = labels("www.example.net")
    signed = next(one for one in known.answers if one.rtype == Rtype.RRSIG).rdatas[0]
    signer = wire(labels("example.net"))
    for own in ("www.example.net", "nothing.www.example.net", "alias.example.net"):
        forged = signed[:18] + wire(labels(own)) + signed[18 + len(signer) :]
        answers = (
            RRset(owner=name, rtype=Rtype.A, ttl=60, rdatas=(b"\1\2\3\4",)),
            RRset(owner=name, rtype=Rtype.RRSIG, ttl=60, rdatas=(forged,)),
        )
        with pytest.raises(BogusError):
            world.check("www.example.net", known=replace(known, answers=answers))


def whole_chain(world: World, origin: str) -> tuple[RRset, ...]:
    """Every NSEC3 of a zone with its signature, as the zone itself would hand them out."""
    signer = world.signers[labels(origin)]
    records = Chain(signer.zone, 30).records()
    return tuple(one for record in records for one in (record, signer.signature(record, NOW)))


def test_a_parent_denies_nothing_below_a_delegation(world: World) -> None:
    """All of it is genuine: the parent's own records about the hashes of its child's names."""
    proof = whole_chain(world, "net")
    for rcode in (Rcode.NOERROR, Rcode.NXDOMAIN):
        lie = Known(rcode=rcode, authority=proof)
        with pytest.raises(BogusError, match="does not hold"):
            world.check("www.example.net", known=lie)


def test_a_zone_denies_nothing_of_another(world: World) -> None:
    signer = world.signers[labels("example.net")]
    data = wire(labels("example.net")) + bitmap((Rtype.NS, Rtype.SOA))
    wraps = RRset(owner=labels("example.net"), rtype=Rtype.NSEC, ttl=30, rdatas=(data,))
    label = b32hexencode(hash_of(labels("ns.nic.net"))).lower()
    rdata = b"\1\0\0\0\0\x14" + bytes(20) + bitmap((Rtype.TXT,))
    names_it = RRset(owner=(label, *signer.zone.origin), rtype=Rtype.NSEC3, ttl=30, rdatas=(rdata,))
    for rcode, record in ((Rcode.NXDOMAIN, wraps), (Rcode.NOERROR, names_it)):
        lie = Known(rcode=rcode, authority=(record, signer.signature(record, NOW)))
        with pytest.raises(BogusError, match="does not hold"):
            world.check("ns.nic.net", known=lie)


def test_a_proof_that_a_wildcard_made_proves_nothing(world: World) -> None:
    signer = world.signers[labels("example.net")]
    star, name = labels("*.example.net"), labels("vvv.example.net")
    data = wire(labels("zzz.example.net")) + bitmap((Rtype.TXT, Rtype.RRSIG, Rtype.NSEC))
    record = RRset(owner=star, rtype=Rtype.NSEC, ttl=30, rdatas=(data,))
    signature = signer.signature(record, NOW)
    moved = (replace(record, owner=name), replace(signature, owner=name))
    lie = Known(rcode=Rcode.NOERROR, authority=moved)
    with pytest.raises(BogusError, match="made from a wildcard"):
        world.check("vvv.example.net", known=lie)


def test_no_answer_costs_more_than_its_bound(world: World) -> None:
    """Denials without signature, and unsigned SOA beside signed denials, about each other."""
    proof = whole_chain(world, "net")
    soas = tuple(
        RRset(owner=labels(f"{at}.x.example.net"), rtype=Rtype.SOA, ttl=30, rdatas=(bytes(22),))
        for at in range(40)
    )
    bare = tuple(one for one in proof if one.rtype == Rtype.NSEC3)
    deep = ".".join("abcdefghijklmnopqrstuvwxyz") + ".example.net"
    names = [deep.split(".", at)[-1] for at in range(27)]
    names += [f"{at}.x.example.net" for at in range(40)] + ["x.example.net"]
    try:
        for lie in (
            Known(rcode=Rcode.NOERROR, authority=bare),
            Known(rcode=Rcode.NOERROR, authority=(*proof, *soas)),
        ):
            world.lies |= {(labels(name), Rtype.DS): lie for name in names}
            for known in (lie, world.fetch(labels("www.example.net"), Rtype.A)):
                with pytest.raises(BogusError):
                    world.check(deep, known=without(known, Rtype.RRSIG))
        many = Known(rcode=Rcode.NOERROR, authority=proof * 10)
        with pytest.raises(BogusError, match="more than an answer needs"):
            world.check("www.example.net", known=many)
    finally:
        world.lies.clear()


def test_keys_that_the_parent_does_not_name_are_not_believed(world: World) -> None:
    other = World()
    example = labels("example.net")
    try:
        world.lies[example, Rtype.DNSKEY] = other.fetch(example, Rtype.DNSKEY)
        with pytest.raises(BogusError, match="none of its keys"):
            world.check("www.example.net")
    finally:
        world.lies.clear()


def test_a_parent_cannot_sign_what_is_its_childs(world: World) -> None:
    known = world.fetch(labels("www.example.net"), Rtype.A)
    rrset = next(one for one in known.answers if one.rtype == Rtype.A)
    forged = world.signers[labels("net")].signature(rrset, NOW)
    assert world.check("www.example.net", known=replace(known, answers=(rrset, forged)))
    sibling = labels("www.plain.net")
    moved = replace(rrset, owner=sibling)
    foreign = world.signers[labels("example.net")].signature(rrset, NOW)
    answers = (moved, replace(foreign, owner=sibling))
    with pytest.raises(BogusError, match="signed by example.net"):
        world.check("www.plain.net", known=replace(known, answers=answers))


def test_dates_count_unless_the_clock_is_not_trusted(world: World) -> None:
    late = NOW + 2 * VALID_SECONDS
    with pytest.raises(BogusError, match="time is over") as caught:
        world.check("www.example.net", now=late)
    assert caught.value.is_expired
    assert world.check("www.example.net", now=late, blind=True) is Trust.TIME_BLIND
    known = world.fetch(labels("www.example.net"), Rtype.A)
    forged = changed(known, Rtype.A, rdatas=(b"\1\2\3\4",))
    with pytest.raises(BogusError) as caught:
        world.check("www.example.net", known=forged, now=late, blind=True)
    assert not caught.value.is_expired


def test_the_roots_own_anchors_are_of_algorithm_8_and_sha_256() -> None:
    tags = [int.from_bytes(one[:2], "big") for one in ROOT_ANCHORS[()]]
    assert tags == [20326, 38696]
    assert all(one[2:4] == b"\x08\x02" and len(one) == 36 for one in ROOT_ANCHORS[()])
