"""The generic initrd: Debian's Python, the TPM stack, a few kernel modules and the agent.

Built from locked packages with the locked packages' own Python and zstd, so two builds on two hosts
give the same bytes. It runs nothing of the packages but those two programs; no maintainer script.
For another architecture the programs are those of this one's lock, of the same Python version.
"""

from __future__ import annotations

import io
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bootstrap.build import tree
from bootstrap.build.init import INIT
from bootstrap.build.machines import MACHINES, Machine, own_machine
from bootstrap.errors import SiteError
from netboot.bootset import AMD64
from netboot.cpio import (
    CpioEntry,
    directory_entry,
    encode_cpio,
    file_entry,
    link_entry,
    with_parents,
)

AGENT = "bootstrap.agent.main"
_IMAGE = "image"
_LEVEL = 12
"""12 MB in 2 s; level 19 takes 14 s and saves a tenth."""


def build_generic(
    packages: Mapping[str, Path],
    kernel: str,
    source: Path,
    *,
    agent: str = AGENT,
    machine: Machine = MACHINES[AMD64],
    tools: Mapping[str, Path] | None = None,
) -> bytes:
    """Build the generic initrd from package files (by name) and our packages below `source`.

    `kernel` is the name of the kernel package; its modules are for that kernel alone. `tools` are
    this machine's own packages where the initrd is for another.
    """
    runtime = _contents(packages, (*tree.RUNTIME, *machine.more))
    programs = _contents(packages if tools is None else tools, (*tree.RUNTIME, *tree.TOOLS))
    files = {name: entry for name, entry in runtime.items() if tree.keep(name, machine)}
    own = _own_sources(source, agent)
    with tempfile.TemporaryDirectory(prefix="doorstep-initrd-") as directory:
        root = Path(directory)
        _write_tree(root, _programs(programs))
        image = {**files, **{tree.OWN + path: _source(path, text) for path, text in own.items()}}
        _write_tree(root / _IMAGE, image)
        compiled = _compile(root, sorted(name for name in image if name.endswith(".py")))
        if tools is None:  # what is for another machine cannot be loaded here; a rehearsal does
            _check_imports(root, tree.find_foreign_imports(own))
        entries = [
            *_system_entries(image, compiled),
            *_module_entries(packages[kernel]),
            *_fixed_entries(agent, machine),
        ]
        return _compress(root, encode_cpio(with_parents(entries)))


def read_deb(path: Path) -> dict[str, CpioEntry]:
    """Read the files and links of a package, by name without a leading slash."""
    command = ["dpkg-deb", "--fsys-tarfile", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SiteError(f"{path}: dpkg-deb: {done.stderr.decode(errors='replace').strip()}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        return {entry.name: entry for entry in _members(archive)}


def _members(archive: tarfile.TarFile) -> Iterator[CpioEntry]:
    for member in archive:
        name = member.name.removeprefix("./").removeprefix("/")
        if not name.startswith("usr/") and name.startswith(("lib/", "lib64/", "bin/", "sbin/")):
            name = f"usr/{name}"
        if member.issym():
            yield link_entry(name, member.linkname)
        elif member.isfile():
            data = archive.extractfile(member)
            assert data is not None
            yield file_entry(name, data.read(), executable=bool(member.mode & stat.S_IXUSR))


def _own_sources(source: Path, agent: str) -> dict[str, str]:
    def text(path: str) -> str | None:
        file = source / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return tree.find_own_modules(agent, text)


def _source(path: str, text: str) -> CpioEntry:
    return file_entry(tree.OWN + path, text.encode())


def _contents(packages: Mapping[str, Path], names: Iterable[str]) -> dict[str, CpioEntry]:
    found: dict[str, CpioEntry] = {}
    for name in names:
        found.update(read_deb(packages[name]))
    return found


def _programs(entries: Mapping[str, CpioEntry]) -> dict[str, CpioEntry]:
    """Choose what the building programs and the compiled files need, pruned or not."""
    own = own_machine()
    wanted = ("usr/bin/", own.interpreter, own.libraries, tree.PYTHON, tree.SITE)
    return {name: entry for name, entry in entries.items() if name.startswith(wanted)}


def _write_tree(root: Path, entries: Mapping[str, CpioEntry]) -> None:
    for name, entry in entries.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.data.decode())
        else:
            path.write_bytes(entry.data)
            path.chmod(0o755 if entry.mode & 0o100 else 0o644)


def _program(root: Path, name: str, arguments: list[str], data: bytes = b"") -> bytes:
    """Run a program of the tree with the tree's own loader and libraries."""
    own = own_machine()
    loader, libraries = str(root / own.interpreter), str(root / own.libraries)
    command = [loader, "--library-path", libraries, str(root / name), *arguments]
    environment = {"PYTHONHOME": str(root / "usr"), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, input=data, capture_output=True, check=False, env=environment, cwd=root
    )
    if done.returncode:
        text = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise SiteError(f"{name} of the locked packages failed: {text[-800:]}")
    return done.stdout


_COMPILE = """\
import importlib._bootstrap_external as external, marshal, sys
from importlib.util import source_hash
for name in sys.stdin.read().splitlines():
    path = sys.argv[1] + '/' + name
    data = open(path, 'rb').read()
    code = compile(data, '/' + name, 'exec', dont_inherit=True, optimize=0)
    raw = external._code_to_hash_pyc(code, source_hash(data), False)
    open(path + 'c', 'wb').write(raw)
"""
_IMPORT = """\
import importlib, os, sys
os.environ['CRYPTOGRAPHY_OPENSSL_NO_LEGACY'] = '1'
sys.path[:] = sys.argv[1:]
for name in sys.stdin.read().splitlines():
    importlib.import_module(name)
"""


def _compile(root: Path, sources: list[str]) -> dict[str, bytes]:
    """Compile every .py to bytecode that is not checked against a source when it is loaded."""
    text = "\n".join(sources).encode()
    arguments = ["-S", "-B", "-W", "ignore", "-c", _COMPILE, str(root / _IMAGE)]
    _program(root, "usr/bin/python3.13", arguments, text)
    for name in sources:
        (root / _IMAGE / name).unlink()
    return {f"{name}c": (root / _IMAGE / f"{name}c").read_bytes() for name in sources}


def _check_imports(root: Path, names: list[str]) -> None:
    """Import from the finished image all that the agent may import; SiteError names what lacks."""
    image = root / _IMAGE
    paths = (tree.PYTHON, f"{tree.PYTHON}lib-dynload", tree.SITE)
    arguments = ["-S", "-B", "-c", _IMPORT, *(str(image / path) for path in paths)]
    _program(root, "usr/bin/python3.13", arguments, "\n".join(names).encode())


def _system_entries(
    files: Mapping[str, CpioEntry], compiled: Mapping[str, bytes]
) -> Iterator[CpioEntry]:
    yield from (entry for name, entry in files.items() if not name.endswith(".py"))
    yield from (file_entry(name, data) for name, data in compiled.items())


def read_modules(kernel: Path) -> dict[str, bytes]:
    """Give the modules that go into the initrd, in load order: file name and unpacked bytes."""
    files = read_deb(kernel)
    modules = {
        Path(name).name.partition(".ko")[0].replace("-", "_"): entry.data
        for name, entry in files.items()
        if name.startswith("usr/lib/modules/") and name.endswith((".ko", ".ko.xz"))
    }
    lists = [e.data.decode() for n, e in files.items() if n.endswith("/modules.builtin")]
    builtin = {Path(p).stem.replace("-", "_") for text in lists for p in text.split()}
    order = tree.order_modules(tree.MODULES, modules, builtin)
    return {f"{name}.ko": tree.plain_module(modules[name]) for name in order}


def _module_entries(kernel: Path) -> Iterator[CpioEntry]:
    modules = read_modules(kernel)
    for name, data in modules.items():
        yield file_entry(f"doorstep/{name}", data)
    yield file_entry("doorstep/modules", "".join(f"{name}\n" for name in modules).encode())


def _fixed_entries(agent: str, machine: Machine) -> Iterator[CpioEntry]:
    yield file_entry("init", INIT.format(agent=agent).encode(), executable=True)
    yield link_entry("usr/bin/python3", "python3.13")
    for name in machine.links:
        yield link_entry(name, f"usr/{name}")
    yield from (directory_entry(name) for name in ("dev", "proc", "run", "sys", "tmp"))


def _compress(root: Path, data: bytes) -> bytes:
    """Compress, and fill up to 4 bytes as GRUB would, so that what Linux measures of all initrds
    together (the event "Linux initrd") is the plain files one after the other.
    """
    arguments = [f"-{_LEVEL}", "--single-thread", "--no-progress", "-c"]
    packed = _program(root, "usr/bin/zstd", arguments, data)
    return packed + bytes(-len(packed) % 4)
