"""What is in the generic initrd: a table of what to take from which package, and the closures.

Pure: file names and bytes in, entries out. There is no shell, no login, no DHCP client and no
module loader in it: what is not on these lists is not in the box's enrolment system.
"""

from __future__ import annotations

import ast
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from bootstrap.build.machines import Machine
from bootstrap.errors import SiteError

RUNTIME = (
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libjson-c5",
    "liblzma5",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "libssl3t64",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-policy0t64",
    "libtss2-rc0t64",
    "libtss2-sys1t64",
    "libtss2-tcti-device0t64",
    "libtss2-tcti-spi-helper0t64",
    "libtss2-tctildr0t64",
    "libuuid1",
    "libyaml-0-2",
    "libzstd1",
    "python3-asn1crypto",
    "python3-cffi-backend",
    "python3-cryptography",
    "python3-packaging",
    "python3-tpm2-pytss",
    "python3-yaml",
    "python3.13-minimal",
    "zlib1g",
)
"""Packages whose files go into the initrd."""

TOOLS = ("liblz4-1", "libstdc++6", "zstd")
"""Packages only used while building, so that every host gives the same bytes."""

MODULES = ("virtio_pci", "virtio_net", "efivarfs", "tpm_tis")
"""Kernel modules to load, with what they depend on; a built-in one is left out."""

PYTHON = "usr/lib/python3.13/"
SITE = "usr/lib/python3/dist-packages/"
OWN = "doorstep/python/"
OWN_PACKAGES = ("attest", "bootstrap", "keys", "netboot")

_LIBRARY = r"(?:ld-linux-[\w-]+|lib[\w.+-]+)\.so[\w.]*"
_KEEP = re.compile(rf"usr/bin/python3\.13|{PYTHON}.*\.(?:py|so)|{SITE}.*\.(?:py|so)")
_DROP = re.compile(
    rf"{PYTHON}(?:test|idlelib|ensurepip|tkinter|turtledemo|lib2to3|pydoc_data|unittest|venv|sqlite3"
    rf"|curses|dbm|xmlrpc|wsgiref|_pyrepl|config-3\.13[^/]*|asyncio|multiprocessing|xml|concurrent"
    rf"|re/_test|zoneinfo|sysconfig)/"
    rf"|{PYTHON}(?:pydoc|doctest|pdb|turtle|antigravity|this|mailbox|tarfile|cProfile|profile|pstats"
    rf"|imaplib|smtplib|ftplib|poplib|pickletools|_pydecimal|_pydatetime|webbrowser|nturl2path"
    rf"|__phello__|_sysconfigdata[^/]*|optparse|statistics|fractions|trace|tracemalloc|zipapp"
    rf"|sitecustomize|rlcompleter|cmd|code|codeop|bdb|tabnanny|pyclbr|filecmp|fileinput)\.py"
    rf"|{PYTHON}lib-dynload/(?:_sqlite3|_curses|_curses_panel|readline|_tkinter|_dbm|_gdbm|_test\w*"
    rf"|xx\w+|_xx\w+|_ctypes_test|_codecs_(?:jp|kr|cn|tw|hk|iso2022)|_multibytecodec|_decimal"
    rf"|_asyncio|_multiprocessing|_interp\w+|_lsprof|nis|ossaudiodev|crypt|_crypt)\."
    rf"|{PYTHON}encodings/(?!__init__|aliases|ascii|utf_8|utf_16_le|utf_16|latin_1|idna|punycode"
    rf"|hex_codec|unicode_escape|raw_unicode_escape)"
    rf"|{SITE}(?:asn1crypto/_perf|.*/tests?/)"
)
_DROP_LIBRARY = re.compile(
    r"lib(?:BrokenLocale|SegFault|anl|memusage|pcprofile|nss_(?:compat|hesiod)|nsl"
    r"|thread_db|c_malloc_debug|mvec)\.so"
)


def keep(name: str, machine: Machine) -> bool:
    """Tell whether a file of the runtime packages belongs into the initrd of a machine."""
    if name == machine.interpreter:
        return True
    if name.startswith(machine.libraries):
        library = name.removeprefix(machine.libraries)
        return bool(re.fullmatch(_LIBRARY, library)) and not _DROP_LIBRARY.match(library)
    return bool(_KEEP.fullmatch(name)) and not _DROP.match(name)


def find_own_modules(entry: str, source: Callable[[str], str | None]) -> dict[str, str]:
    """Follow imports from the module `entry`; return path in the package tree -> source text.

    `source` gives the text of a path as `attest/quote.py`, None when there is none. Imports
    inside functions count too: what may be imported must be there, for nothing is loaded later.
    """
    found: dict[str, str] = {}
    waiting = [(entry, True)]
    while waiting:
        module, must_exist = waiting.pop()
        if module.partition(".")[0] not in OWN_PACKAGES:
            continue
        path, text = _locate(module, source)
        if text is None and must_exist:
            raise SiteError(f"{entry} imports {module}, which this installation does not have")
        if path is None or text is None or path in found:
            continue
        found[path] = text
        if "." in module:
            waiting.append((module.rpartition(".")[0], True))
        package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
        waiting.extend(_imports(ast.parse(text), package))
    return found


def find_foreign_imports(sources: Mapping[str, str]) -> list[str]:
    """Name the modules of others that our modules import anywhere, inside functions too."""
    names: set[str] = set()
    for text in sources.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    return sorted(name for name in names if name.partition(".")[0] not in OWN_PACKAGES)


def _locate(module: str, source: Callable[[str], str | None]) -> tuple[str | None, str | None]:
    stem = module.replace(".", "/")
    for path in (f"{stem}.py", f"{stem}/__init__.py"):
        text = source(path)
        if text is not None:
            return path, text
    return None, None


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, bool]]:
    """Give what is imported, and whether it is a module for sure (a name may be a value)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parts) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module, True
            yield from ((f"{module}.{alias.name}", False) for alias in node.names)


def order_modules(
    wanted: Iterable[str], files: Mapping[str, bytes], builtin: set[str]
) -> list[str]:
    """Put kernel modules and what they depend on in load order.

    `files` is module name -> .ko as the package has it; SiteError when one is nowhere.
    """
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name in builtin:
            return
        if name not in files:
            raise SiteError(f"the kernel package has no module {name}")
        for needed in module_depends(plain_module(files[name])):
            add(needed)
        order.append(name)

    for name in wanted:
        add(name)
    return order


def plain_module(data: bytes) -> bytes:
    """Decompress a .ko.xz; another file is returned as it is."""
    return lzma.decompress(data) if data.startswith(b"\xfd7zXZ\0") else data


def module_depends(module: bytes) -> list[str]:
    """Read the `depends=` field of a module's .modinfo section."""
    match = re.search(rb"\0depends=([\w,-]*)\0", module)
    return [name.decode() for name in match.group(1).split(b",") if name] if match else []
