"""What a rehearsal does to the site it has just shown working, and how each attack must end.

Every attack runs on the real parts: the line, the firmware, another boot set, the TPM itself. An
attack that is not refused for its own reason fails the rehearsal.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from bootstrap.errors import SiteError
from bootstrap.rehearsal.wire import Swap
from netboot.bootset import BootSetManifest, Role
from netboot.io.bootsets import BootSetStore

CPIO_CRC_MAGIC = b"070702"
_HEADER = 110
_CHECK = slice(102, 110)


def changed_release(store: BootSetStore, manifest: BootSetManifest) -> list[Swap]:
    """Change one byte of the release text in the anchor on the wire, and mend its checksum."""
    anchor = store.file(manifest.roles[Role.ANCHOR].sha256).read_bytes()
    start, end = _entry(anchor, b"doorstep/anchor/release")
    header, body = anchor[start : start + _HEADER], anchor[start:end]
    text = manifest.release.encode()
    forged = text[:-1] + bytes([text[-1] ^ 1])
    total = int(header[_CHECK], 16) - text[-1] + forged[-1]
    mended = header[: _CHECK.start] + f"{total & 0xFFFFFFFF:08x}".encode()
    data = len(body) - len(text) - 1
    if body[data:] != text + b"\n":
        raise SiteError("the anchor holds no release text to change")
    return [Swap(body, mended + body[_HEADER:data] + forged + b"\n")]


def other_anchor(
    store: BootSetStore, served: BootSetManifest, old: BootSetManifest
) -> tuple[list[Swap], list[Swap]]:
    """Put an older set's anchor and grub.cfg in place of the served one's: to the box, to the site.

    The two sets differ in the anchor alone; its texts must have one length.
    """
    new_file, old_file = served.roles[Role.ANCHOR], old.roles[Role.ANCHOR]
    new_path, old_path = new_file.path.encode(), old_file.path.encode()
    new_data = store.file(new_file.sha256).read_bytes()
    old_data = store.file(old_file.sha256).read_bytes()
    start, end = _entry(new_data, b"doorstep/anchor/release")
    to_box = [Swap(new_path, old_path), Swap(new_data[start:end], old_data[start:end])]
    return to_box, [Swap(old_path, new_path)]


def _entry(cpio: bytes, name: bytes) -> tuple[int, int]:
    """Find an entry of a newc archive: where its header begins and its data ends (cpio(5))."""
    at = 0
    while cpio[at : at + 6] == CPIO_CRC_MAGIC:
        size = int(cpio[at + 54 : at + 62], 16)
        length = int(cpio[at + 94 : at + 102], 16)
        data = at + (_HEADER + length + 3) // 4 * 4
        if cpio[at + _HEADER : at + _HEADER + length - 1] == name:
            return at, data + size
        at = (data + size + 3) // 4 * 4
    raise SiteError(f"the anchor holds no {name.decode()}")


def captured_bundle(answer: str) -> Mapping[str, Any]:
    """Take the bundle out of a signed answer, as somebody who recorded it would have it."""
    payload = json.loads(_bytes(json.loads(answer)["answer"]))
    return dict(payload["bundle"])


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
