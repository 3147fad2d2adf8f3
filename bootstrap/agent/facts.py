"""What the box says of itself: read from /sys and /proc, written as JSON bytes.

Bound by the quote, believed only as facts (docs/architecture.md, Facts). A missing file is a
missing fact, never an error.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SYS = Path("/sys")
MAX_FACTS = 64 * 1024
_SMBIOS = (
    "sys_vendor",
    "product_name",
    "product_serial",
    "product_uuid",
    "bios_vendor",
    "bios_version",
    "bios_date",
)
_MAX_TEXT = 128
_MAX_NICS = 64
_MAX_PCI = 512


def collect(*, release: str, used: dict[str, str] | None = None) -> bytes:
    """Collect the facts; `used` is the MAC and the address that phone home."""
    facts: dict[str, Any] = {
        "smbios": smbios(),
        "nics": nics(),
        "memory_mib": memory_mib(),
        "architecture": os.uname().machine,
        "kernel": os.uname().release,
        "pci": pci(),
        "release": release,
    }
    if used:
        facts["used"] = used
    data = json.dumps({k: v for k, v in facts.items() if v}, separators=(",", ":")).encode()
    return data if len(data) <= MAX_FACTS else b"{}"


def smbios() -> dict[str, str]:
    """Read what the firmware says of the machine."""
    found = {name: _text(SYS / "class/dmi/id" / name) for name in _SMBIOS}
    return {name: text for name, text in found.items() if text}


def nics() -> list[dict[str, Any]]:
    """List the Ethernet interfaces by name."""
    found = []
    for path in _listed(SYS / "class/net"):
        if _text(path / "type") == "1" and path.name != "lo":
            found.append(
                {
                    "name": path.name,
                    "mac": _text(path / "address"),
                    "carrier": _text(path / "carrier") == "1",
                }
            )
    return found[:_MAX_NICS]


def pci() -> list[str]:
    """List the PCI devices as vvvv:dddd, sorted."""
    ids = []
    for path in _listed(SYS / "bus/pci/devices"):
        vendor, device = _text(path / "vendor"), _text(path / "device")
        ids.append(f"{vendor.removeprefix('0x')}:{device.removeprefix('0x')}")
    return sorted(ids)[:_MAX_PCI]


def memory_mib() -> int:
    """Give the memory that the kernel has, in MiB; 0 when unknown."""
    for line in _text(Path("/proc/meminfo"), 4096).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def _listed(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _text(path: Path, limit: int = _MAX_TEXT) -> str:
    try:
        return path.read_bytes()[:limit].decode("utf-8", "replace").strip().strip("\0")
    except OSError:
        return ""
