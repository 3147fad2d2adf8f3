"""Structured mutations from a seed: the same number gives the same bytes, on every machine."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace

from attest.der import split
from attest.eventlog import Event, EventLog, EventType, decode
from attest.wire import (
    BankSelection,
    CertifyInfo,
    ClockInfo,
    QuoteInfo,
    decode_attest,
    decode_signature,
    encode_signature,
)
from keys.tpm_public import HASH_IDS
from tests import forge
from tests.eventlog_forge import encode, with_events
from tests.fuzz.material import CertificateCase, QuoteCase, plain_values

_NUMBERS = (0, 1, 2, 3, 4, 7, 20, 32, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000)
_LARGE = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


class Mutator(random.Random):
    """One source of changes, made from a text."""

    def raw(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Change bytes without knowing what they are."""
        change: Callable[[bytes, Sequence[bytes]], bytes] = self.choice(
            (
                self._flip,
                self._flip,
                self._overwrite,
                self._number,
                self._number,
                self._cut_off,
                self._remove,
                self._repeat,
                self._splice,
                self._pad,
            )
        )
        return change(data, others)

    def _at(self, data: bytes) -> int:
        return self.randrange(len(data)) if data else 0

    def _flip(self, data: bytes, others: Sequence[bytes]) -> bytes:
        changed = bytearray(data)
        for _ in range(self.choice((1, 1, 1, 2, 8)) if data else 0):
            changed[self._at(data)] ^= 1 << self.randrange(8)
        return bytes(changed)

    def _overwrite(self, data: bytes, others: Sequence[bytes]) -> bytes:
        at, size = self._at(data), self.randrange(1, 9)
        return data[:at] + self.randbytes(size) + data[at + size :]

    def _number(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Put a number where a length could stand, often near the one that stands there."""
        form = self.choice(("B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
        size = struct.calcsize(form)
        at = self._at(data)
        old = int.from_bytes(data[at : at + size], "little" if form[0] == "<" else "big")
        near = old + self.choice((-4, -1, 1, 4, 8))
        number = self.choice((near, near, self.choice(_NUMBERS), self.choice(_LARGE), len(data)))
        return data[:at] + struct.pack(form, number % (1 << 8 * size)) + data[at + size :]

    def _cut_off(self, data: bytes, others: Sequence[bytes]) -> bytes:
        return data[: self._at(data)]

    def _remove(self, data: bytes, others: Sequence[bytes]) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + self.choice((1, 2, 4, 8, 32, 64)) :]

    def _repeat(self, data: bytes, others: Sequence[bytes]) -> bytes:
        at, size = self._at(data), self.choice((1, 2, 4, 8, 32, 64))
        return data[: at + size] + data[at:]

    def _splice(self, data: bytes, others: Sequence[bytes]) -> bytes:
        other = self.choice(others)
        return data[: self._at(data)] + other[self._at(other) :]

    def _pad(self, data: bytes, others: Sequence[bytes]) -> bytes:
        fill = self.choice((b"\0", b"\xff", b"\x11", self.randbytes(1)))
        return data + fill * self.choice((1, 7, 64, 1000))

    # --- logs

    def log(self, data: bytes, others: Sequence[bytes]) -> bytes:
        """Change a log as bytes, or one to three of its events."""
        if self.random() < 0.4:
            return self.raw(data, others)
        log = decode(data)
        events = list(log.events[1:])
        for _ in range(self.choice((1, 1, 2, 3))):
            self._change_events(events, log)
        return encode(with_events(log, events))

    def _change_events(self, events: list[Event], log: EventLog) -> None:
        if not events:
            return
        at, other = self.randrange(len(events)), self.randrange(len(events))
        event = events[at]
        match self.randrange(9):
            case 0:
                del events[at]
            case 1:
                events.insert(other, event)
            case 2:
                events[at], events[other] = events[other], event
            case 3:
                # In the firmware's own words, but nothing is extended.
                text = b"StartupLocality\0" + bytes([self.choice((0, 3, 4, 255))])
                zero = {bank.name: bytes(bank.size) for bank in log.banks}
                events.insert(at, Event(pcr=0, type=EventType.NO_ACTION, digests=zero, data=text))
            case _:
                events[at] = self._event(event, events[other])

    def _event(self, event: Event, other: Event) -> Event:
        match self.randrange(5):
            case 0:
                return replace(event, type=self._type())
            case 1:
                return replace(event, pcr=self.randrange(24))
            case 2:
                return replace(event, data=self._data(event, other))
            case 3:
                return replace(event, data=self._data(event, other), type=self._type())
        return replace(event, digests=self._digests(event, other))

    def _type(self) -> int:
        return self.choice((*EventType, EventType.SEPARATOR, EventType.EFI_VARIABLE_AUTHORITY, 99))

    def _data(self, event: Event, other: Event) -> bytes:
        return self.choice((bytes(4), b"\xff" * 4, other.data, b"", self.raw(event.data, [b"\0"])))

    def _digests(self, event: Event, other: Event) -> dict[str, bytes]:
        digests = dict(event.digests)
        bank = self.choice(sorted(digests))
        change = self.randrange(3)
        if change == 0:
            digests[bank] = other.digests.get(bank, digests[bank])
        elif change == 1:
            digests[bank] = self.randbytes(len(digests[bank]))
        elif len(digests) > 1:
            del digests[bank]
        return digests

    # --- quotes

    def quote(
        self, case: QuoteCase, others: Sequence[QuoteCase]
    ) -> tuple[bytes, bytes, dict[str, dict[int, bytes]]]:
        """Change the attestation, the signature or the values of a quote."""
        attest, signature, values = case.attest, case.signature, plain_values(case.values)
        match self.randrange(8):
            case 0:
                attest = self.raw(attest, [other.attest for other in others])
            case 1 | 2:
                attest = self._attest(attest)
            case 3:
                signature = self.raw(signature, [other.signature for other in others])
            case 4:
                signature = self._signature(signature)
            case 5:
                self._values(values)
            case 6:
                other = self.choice(others)
                attest, signature = self.choice(
                    ((other.attest, signature), (attest, other.signature), (other.attest, b""))
                )
            case 7:
                # Signed again, by a key of the attacker.
                attest = self._attest(attest)
                key = forge.private_key(f"attacker {self.randrange(4)}")
                signature = encode_signature(forge.sign(key, attest))
        return attest, signature, values

    def _attest(self, data: bytes) -> bytes:
        attest = decode_attest(data)
        info = attest.attested
        assert isinstance(info, QuoteInfo)
        match self.randrange(7):
            case 0:
                attest = replace(attest, extra_data=self.raw(attest.extra_data, [b"\0"])[:66])
            case 1:
                attest = replace(attest, qualified_signer=self.randbytes(34))
            case 2:
                clock = ClockInfo(
                    clock=self.getrandbits(64),
                    reset_count=self.getrandbits(32),
                    restart_count=self.getrandbits(32),
                    safe=self.random() < 0.5,
                )
                attest = replace(attest, clock=clock)
            case 3:
                attest = replace(attest, attested=CertifyInfo(name=b"n", qualified_name=b"q"))
            case 4:
                attest = replace(attest, attested=replace(info, digest=self.randbytes(32)))
            case _:
                chosen = tuple(self._selection(each) for each in info.selection)
                chosen = self.choice((chosen, chosen[::-1], chosen * 2, chosen[1:]))
                attest = replace(attest, attested=replace(info, selection=chosen))
        return attest.encode()

    def _selection(self, chosen: BankSelection) -> BankSelection:
        indices = tuple(sorted({*chosen.indices} ^ {self.randrange(24)}))
        bank = self.choice((chosen.bank, self.choice(sorted(HASH_IDS))))
        width = max(indices, default=0) // 8 + 1
        return BankSelection(bank=bank, indices=indices, width=max(width, self.choice((1, 3, 4))))

    def _signature(self, data: bytes) -> bytes:
        signature = decode_signature(data)
        name = self.choice([name for name in ("r", "s", "signature") if hasattr(signature, name)])
        number = getattr(signature, name)
        changed = self.choice((b"\0" + number, number[1:], bytes(len(number)), number[::-1], b""))
        return encode_signature(replace(signature, **{name: changed}))

    def _values(self, values: dict[str, dict[int, bytes]]) -> None:
        bank = self.choice(sorted(values))
        one, other = self.randrange(16), self.randrange(16)
        match self.randrange(5):
            case 0:
                values[bank][one], values[bank][other] = values[bank][other], values[bank][one]
            case 1:
                values[bank][one] = self.raw(values[bank][one], [b"\0"])
            case 2:
                del values[bank][one]
            case 3:
                values["sha512"] = values.pop(bank)
            case 4:
                # Bytes move from one value to the next: what is joined stays the same.
                if one + 1 in values[bank]:
                    left, right = values[bank][one], values[bank][one + 1]
                    values[bank][one], values[bank][one + 1] = left[:-1], left[-1:] + right

    # --- certificates

    def certificates(self, case: CertificateCase, others: Sequence[bytes]) -> tuple[bytes, ...]:
        """Change one certificate of a chain, swap it, or send others along."""
        chain = list(case.chain)
        at = self.randrange(len(chain))
        match self.randrange(6):
            case 0 | 1 | 2:
                chain[at] = self.raw(chain[at], others)
            case 3:
                whole, _ = split(chain[at])
                chain[at] = self._nested(whole[0]) if whole else self.raw(chain[at], others)
            case 4:
                chain[at] = self.choice(others)
            case 5:
                chain.insert(self.randrange(len(chain) + 1), self.choice(others))
                self.shuffle(chain)
        return tuple(chain)

    def _nested(self, data: bytes) -> bytes:
        """Change one element and keep the lengths of those around it right."""
        tag, start, end = _element(data, 0)
        places = _places(data, start, end) if tag & 0x20 else []
        if not places or self.random() < 0.2:
            inner = self.raw(data[start:end], [b"\x05\0", b"\x30\0"])
        else:
            at = self.choice(places)
            stop = _element(data, at)[2]
            new = b"" if self.random() < 0.1 else self._nested(data[at:stop])
            inner = data[start:at] + new + data[stop:end]
        return bytes([tag]) + _length(len(inner)) + inner


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Give tag, start and end of the content of an element that is well formed."""
    size, start = data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    return data[at], start, start + size


def _places(data: bytes, at: int, end: int) -> list[int]:
    """Give where the elements inside another begin; nothing where it holds none."""
    places = []
    while at + 1 < end:
        places.append(at)
        at = _element(data, at)[2]
    return places if at == end else []


def _length(size: int) -> bytes:
    if size < 0x80:
        return bytes([size])
    count = (size.bit_length() + 7) // 8
    return bytes([0x80 | count]) + size.to_bytes(count, "big")
