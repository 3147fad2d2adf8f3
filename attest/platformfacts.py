"""What a platform certificate says of a machine: its maker and model, its parts and addresses.

The maker's words at the time of delivery. It only reads; whether they may be believed is decided in
`attest.platformcert`. TCG Platform Certificate Profile 1.1, 3.1.6 to 3.1.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from attest.asn1 import Element, children, oid_text, text

MAX_COMPONENTS = 1024
# Profile 1.1, 3.1.6, and the numbers of the profile for TPM 1.2, which swtpm still writes.
_MAKER, _MODEL, _VERSION, _SERIAL = (
    ("2.23.133.5.1.1", "2.23.133.2.4"),
    ("2.23.133.5.1.4", "2.23.133.2.5"),
    ("2.23.133.5.1.5", "2.23.133.2.6"),
    ("2.23.133.5.1.6", "2.23.133.2.23"),
)
_CONFIGURATIONS = {"2.23.133.5.1.7.1": 1, "2.23.133.5.1.7.2": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One part of a machine; class as registry and number, addresses as (kind, text)."""

    registry: str
    kind: str
    manufacturer: str
    model: str
    serial: str
    revision: str
    addresses: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformFacts:
    """What a platform certificate says of a machine; `configuration` is its version, 0 for none."""

    manufacturer: str
    model: str
    version: str
    serial: str
    configuration: int = 0
    components: tuple[Component, ...] = ()


def decode_facts(names: Mapping[str, str], values: Mapping[str, Element]) -> PlatformFacts:
    """Read facts from the alternative names and the attributes, both by OID.

    EvidenceError or ValueError where they have not the shape of any.
    """

    def first(numbers: Sequence[str]) -> str:
        return next((names[number] for number in numbers if number in names), "")

    configuration = max(
        (version for oid, version in _CONFIGURATIONS.items() if oid in values), default=0
    )
    components: tuple[Component, ...] = ()
    for oid, version in _CONFIGURATIONS.items():
        if version == configuration:
            components = tuple(_components(values[oid], version))
    return PlatformFacts(
        manufacturer=first(_MAKER),
        model=first(_MODEL),
        version=first(_VERSION),
        serial=first(_SERIAL),
        configuration=configuration,
        components=components,
    )


def _components(configuration: Element, version: int) -> Iterator[Component]:
    """Read PlatformConfiguration: componentIdentifiers [0] (profile 1.1, 3.1.7 and 3.1.8)."""
    for part in children(configuration.content):
        if part.tag == 0xA0:
            for component in children(part.content, MAX_COMPONENTS):
                yield _component(component, version)


def _component(element: Element, version: int) -> Component:
    fields = list(children(element.content))
    registry, kind = "", ""
    if version == 2:
        number, value = children(fields.pop(0).content)
        registry, kind = oid_text(number.content), value.content[:16].hex()
    manufacturer, model, *rest = fields
    optional = {part.tag: part for part in rest}
    addresses = optional.get(0xA4)
    return Component(
        registry=registry,
        kind=kind,
        manufacturer=text(manufacturer),
        model=text(model),
        serial=text(optional[0x80]) if 0x80 in optional else "",
        revision=text(optional[0x81]) if 0x81 in optional else "",
        addresses=tuple(_addresses(addresses.content)) if addresses else (),
    )


def _addresses(content: bytes) -> Iterator[tuple[str, str]]:
    for address in children(content):
        kind, value = children(address.content)
        yield oid_text(kind.content), text(value)
