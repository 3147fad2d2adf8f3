"""Building blocks of boot sets without a download: lock, import closure, module order, console."""

import base64
import hashlib
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.build import apt, tree
from bootstrap.build.lock import Lock, Package, decode_lock, encode_lock
from bootstrap.build.machines import MACHINES
from bootstrap.build.measure import ConsoleError, parse_console
from bootstrap.build.parts import committed_lock
from bootstrap.errors import SiteError
from netboot.bootset import AMD64, ARM64, Architecture


def package(**changes: object) -> Package:
    values = {
        "name": "zstd",
        "version": "1.5.7+dfsg-1",
        "archive": "debian",
        "path": "pool/main/libz/libzstd/zstd_1.5.7+dfsg-1_amd64.deb",
        "size": 100,
        "sha256": bytes(32),
    }
    return Package(**{**values, **changes})


@pytest.mark.parametrize(
    ("architecture", "file"), [(AMD64, "bootset.lock"), (ARM64, "bootset-arm64.lock")]
)
def test_the_committed_lock_names_all_that_a_set_needs(
    architecture: Architecture, file: str
) -> None:
    lock, machine = committed_lock(architecture), MACHINES[architecture]
    assert (lock.suite, lock.architecture) == ("trixie", architecture)
    for name in (*tree.RUNTIME, *machine.more, *tree.TOOLS, *machine.loaders):
        assert lock.package(name).size > 0
        assert lock.package(name).path.endswith((f"_{architecture}.deb", "_all.deb"))
    assert sum(p.name.startswith("linux-image-6.") for p in lock.packages) == 1
    text = (Path(apt.__file__).parents[2] / "netboot" / file).read_text()
    assert encode_lock(lock) == text


def test_both_architectures_run_the_same_python_on_the_same_tpm_stack() -> None:
    """Bytecode for one is compiled by the other's Python where sets are built."""
    amd64, arm64 = (committed_lock(architecture) for architecture in (AMD64, ARM64))
    for name in (*tree.RUNTIME, *tree.TOOLS):
        versions = {lock.package(name).version.partition("+b")[0] for lock in (amd64, arm64)}
        assert len(versions) == 1, name


def test_a_lock_that_names_no_architecture_is_for_amd64() -> None:
    assert decode_lock(GOOD.replace('architecture = "amd64"\n', "")) == decode_lock(GOOD)


GOOD = encode_lock(Lock(suite="trixie", packages=(package(),)))
BAD_LOCKS = [
    ("bootset.lock:", "x ="),
    ("exactly `suite`", ""),
    ("exactly `suite`", GOOD + "[other]\n"),
    ("neither amd64 nor arm64", GOOD.replace('"amd64"', '"riscv64"')),
    ("neither amd64 nor arm64", GOOD.replace('"amd64"', "[]")),
    ("exactly the keys", GOOD + 'extra = "x"\n'),
    ("malformed", GOOD.replace("pool/", "../")),
    ("malformed", GOOD.replace("libz/", "../")),
    ("malformed", GOOD.replace('"debian"', '"elsewhere"')),
    ("malformed", GOOD.replace("00000000", "0000000x")),
    ("number of bytes", GOOD.replace("100", "true")),
    ("sorted and named once", GOOD + GOOD[GOOD.index("[[") :]),
    ("all but `size`", GOOD.replace('"1.5.7+dfsg-1"', "5")),
]


@pytest.mark.parametrize(("text", "lock"), BAD_LOCKS)
def test_a_bad_lock_is_refused(text: str, lock: str) -> None:
    with pytest.raises(SiteError, match=text):
        decode_lock(lock)


def test_a_package_that_the_mirror_dropped_is_said_so(tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    lock = Lock(suite="trixie", packages=(package(),))
    with pytest.raises(apt.LockStaleError, match=r"zstd 1\.5\.7.*doorstep bootset lock"):
        apt.fetch(lock, ["zstd"], tmp_path / "cache", {"debian": mirror.as_uri()})


def test_a_package_with_another_digest_is_not_taken(tmp_path: Path) -> None:
    wanted = package(sha256=hashlib.sha256(b"good").digest())
    file = tmp_path / "mirror" / wanted.path
    file.parent.mkdir(parents=True)
    lock, mirrors = (
        Lock(suite="trixie", packages=(wanted,)),
        {"debian": (tmp_path / "mirror").as_uri()},
    )
    file.write_bytes(b"evil")
    with pytest.raises(SiteError):
        apt.fetch(lock, ["zstd"], tmp_path / "cache", mirrors)
    file.write_bytes(b"good")
    got = apt.fetch(lock, ["zstd"], tmp_path / "cache", mirrors)["zstd"]
    assert got.read_bytes() == b"good"
    got.write_bytes(b"rot!")
    with pytest.raises(SiteError, match="damaged"):
        apt.fetch(lock, ["zstd"], tmp_path / "cache", mirrors)


SOURCES = {
    "bootstrap/__init__.py": "",
    "bootstrap/agent/__init__.py": "",
    "bootstrap/agent/main.py": "import ssl\nfrom bootstrap.agent import tpm\nimport attest.quote",
    "bootstrap/agent/tpm.py": "def f():\n    from ..agent.late import x\n    import tpm2_pytss",
    "bootstrap/agent/late.py": "from . import near",
    "bootstrap/agent/near.py": "",
    "bootstrap/site.py": "import flask",
    "attest/__init__.py": "",
    "attest/quote.py": "from attest import wire",
    "attest/wire.py": "",
    "attest/policy.py": "",
}


def test_the_closure_follows_imports_in_functions_and_takes_nothing_else() -> None:
    found = tree.find_own_modules("bootstrap.agent.main", SOURCES.get)
    assert set(SOURCES) - set(found) == {"bootstrap/site.py", "attest/policy.py"}
    assert tree.find_foreign_imports(found) == ["ssl", "tpm2_pytss"]


def test_a_missing_agent_is_said_so() -> None:
    with pytest.raises(SiteError, match="imports bootstrap.agent.none, which this installation"):
        tree.find_own_modules("bootstrap.agent.none", SOURCES.get)
    less = {path: text for path, text in SOURCES.items() if path != "attest/quote.py"}
    with pytest.raises(SiteError, match="imports attest.quote"):
        tree.find_own_modules("bootstrap.agent.main", less.get)


def module(*needed: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


def test_modules_come_after_what_they_need() -> None:
    files = {
        "virtio_net": lzma.compress(module("net_failover"), lzma.FORMAT_XZ),
        "net_failover": module("failover", "virtio"),
        "failover": module(),
    }
    order = tree.order_modules(["virtio_net", "virtio_pci"], files, {"virtio", "virtio_pci"})
    assert order == ["failover", "net_failover", "virtio_net"]
    with pytest.raises(SiteError, match="no module e1000"):
        tree.order_modules(["e1000"], files, set())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("usr/bin/python3.13", True),
        ("usr/bin/zstd", False),
        ("usr/bin/sh", False),
        ("usr/sbin/tpm", False),
        ("usr/lib/python3.13/ssl.py", True),
        ("usr/lib/python3.13/idlelib/run.py", False),
        ("usr/lib/python3.13/encodings/utf_8.py", True),
        ("usr/lib/python3.13/encodings/cp437.py", False),
        ("usr/lib/x86_64-linux-gnu/libc.so.6", True),
        ("usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0.0.0", True),
        ("usr/lib/x86_64-linux-gnu/engines-3/afalg.so", False),
        ("usr/share/doc/x", False),
        ("etc/passwd", False),
    ],
)
def test_what_is_kept_of_a_package(name: str, kept: bool) -> None:
    assert tree.keep(name, MACHINES[AMD64]) is kept


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("usr/lib/ld-linux-aarch64.so.1", True),
        ("usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", True),
        ("usr/lib/aarch64-linux-gnu/libssl.so.3", True),
        ("usr/lib/aarch64-linux-gnu/libthread_db.so.1", False),
        ("usr/lib/aarch64-linux-gnu/engines-3/afalg.so", False),
        ("usr/lib/x86_64-linux-gnu/libssl.so.3", False),
        ("usr/lib/python3.13/ssl.py", True),
    ],
)
def test_what_is_kept_for_another_architecture(name: str, kept: bool) -> None:
    assert tree.keep(name, MACHINES[ARM64]) is kept


def console(log: bytes, digest: bytes | None = None) -> bytes:
    end = (hashlib.sha256(log).digest() if digest is None else digest).hex().encode()
    chunks = [log[i : i + 30] for i in range(0, len(log), 30)]
    lines = [b"[    1.0] noise", b"DOORSTEP-PCR sha256 7 " + b"ab" * 32]
    lines += [b"DOORSTEP-PCR sha1 7 " + b"cd" * 20]
    lines += [b"DOORSTEP-LOG " + base64.b64encode(chunk) for chunk in chunks]
    return b"\r\n".join([*lines, b"DOORSTEP-LOG-END " + end, b"[    2.0] reboot", b""])


@given(st.binary(max_size=200))
@settings(max_examples=40)
def test_a_console_gives_back_log_and_values(log: bytes) -> None:
    measured = parse_console(console(log))
    assert measured.log == log
    assert measured.pcrs == {"sha256": {7: b"\xab" * 32}, "sha1": {7: b"\xcd" * 20}}


@given(st.binary(max_size=100))
@settings(max_examples=40)
def test_a_console_without_a_whole_measurement_is_refused(junk: bytes) -> None:
    whole = console(b"log" * 30)
    cut = whole.replace(b"DOORSTEP-LOG ", b"lost ", 1)
    for data in (junk, cut, whole[: whole.index(b"DOORSTEP-LOG-END")]):
        with pytest.raises(ConsoleError):
            parse_console(data)
