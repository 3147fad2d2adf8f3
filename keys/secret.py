"""Bytes that do not show themselves: not in a log, a traceback, a format string or a pickle.

It never erases memory: Python keeps copies. It prevents showing by accident (design.md, Secrets).
"""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

HIDDEN: Final = "Secret(hidden)"


class Secret:
    """Some bytes that only `reveal` gives back; equal to another in constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        """Take a copy of the bytes."""
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the bytes; every place that calls this is a place to read in a review."""
        return self._value

    def __len__(self) -> int:
        """Count the bytes."""
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, with another Secret only."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show nothing, not even the length."""
        return HIDDEN

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        """Show nothing, whatever the format asks for."""
        return HIDDEN

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        raise TypeError("a Secret is not written anywhere")
