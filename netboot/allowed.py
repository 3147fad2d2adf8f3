"""The list of servers and gateways that belong on a site's networks, as a TOML file.

Learned with a person's word at set-up (`doorstep watch learn`); an entry allows one role of one
hardware address. Reading it never guesses: a file that cannot be read allows nobody.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable

from netboot.errors import SiteError
from netboot.watch import Allowed, Role

FILE = "allowed-servers.toml"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.ASCII)
_KEYS = {"role", "mac", "address", "note"}


def decode_allowed(data: bytes) -> tuple[Allowed, ...]:
    """Read the file; SiteError says which entry is wrong and what it should be."""
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise SiteError(f"{FILE}: is not TOML ({error}): correct that line") from None
    entries = document.get("allowed", [])
    if set(document) - {"allowed"} or not isinstance(entries, list):
        raise SiteError(f"{FILE}: holds more than [[allowed]] entries: remove the rest")
    return tuple(_entry(entry, number) for number, entry in enumerate(entries, 1))


def _entry(entry: object, number: int) -> Allowed:
    where = f"{FILE}: entry {number}"
    if not isinstance(entry, dict) or not all(isinstance(one, str) for one in entry.values()):
        raise SiteError(f"{where}: every value is text in quotes")
    if unknown := set(entry) - _KEYS:
        raise SiteError(f"{where}: unknown key {sorted(unknown)[0]}: known: role, mac, address")
    try:
        role = Role(entry.get("role", ""))
    except ValueError:
        raise SiteError(f"{where}: role is one of {', '.join(Role)}") from None
    mac = entry.get("mac", "").lower()
    if not _MAC.fullmatch(mac):
        raise SiteError(f"{where}: mac is six pairs of hex digits, as in 02:00:00:00:00:11")
    return Allowed(role=role, mac=bytes.fromhex(mac.replace(":", "")), address=entry.get("address"))


def encode_allowed(entries: Iterable[tuple[Allowed, str]]) -> bytes:
    """Write entries, each with a note of who it is."""
    lines = ["# Servers and gateways that belong here; made by `doorstep watch learn`."]
    for one, note in entries:
        lines += ["", "[[allowed]]"]
        fields = {"role": one.role.value, "mac": one.mac.hex(":"), "address": one.address}
        texts = {**fields, "note": note or None}
        lines += [f"{key} = {json.dumps(text)}" for key, text in texts.items() if text is not None]
    return ("\n".join(lines) + "\n").encode()
