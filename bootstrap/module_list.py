"""The list of kernel modules that a boot set's enrolment system may load, a file of the set.

They are inside the packed initrd, where nobody who only judges evidence can look; so whoever builds
the set writes their digests beside it, under the same signature. It never reads a module by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from attest.bootfacts import BANKS, Digests, digests
from bootstrap.errors import SiteError

TYPE = "doorstep/modules/v1"
MAX_FILE = 1 << 20
_SIZES = {bank: len(digest) for bank, digest in digests(b"").items()}


def encode_modules(modules: Mapping[str, bytes]) -> bytes:
    """Write the list of modules, given by file name with their (unpacked) bytes, as JSON."""
    listed = {
        name: {bank: digest.hex() for bank, digest in digests(data).items()}
        for name, data in modules.items()
    }
    document = {"type": TYPE, "modules": listed}
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def decode_modules(data: bytes) -> tuple[Digests, ...]:
    """Read a list, in the order of the names; SiteError when it is none."""
    try:
        if len(data) > MAX_FILE:
            raise ValueError("too large")  # noqa: TRY301 - one way out for all that is wrong
        document = json.loads(data)
        if document["type"] != TYPE:
            raise ValueError("another type")  # noqa: TRY301
        return tuple(_digests(listed) for _, listed in sorted(document["modules"].items()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SiteError(
            "the list of kernel modules of a boot set cannot be read: build the set again"
        ) from error


def _digests(listed: Mapping[str, str]) -> Digests:
    found = {bank: bytes.fromhex(listed[bank]) for bank in BANKS}
    if len(listed) != len(BANKS) or any(len(found[bank]) != _SIZES[bank] for bank in BANKS):
        raise ValueError
    return found
