"""A Debian 13 controller in a container: built once below the cache, booted by systemd-nspawn.

What is installed in it, and how, are the printed blocks of docs/install.md. Its disk is an overlay
that outlives a power cut and is gone with the `Container`. Needs root; the network is a `Lan`.
"""

import fcntl
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from bootstrap.build.apt import find_mirrors
from bootstrap.build.parts import default_cache
from bootstrap.rehearsal.lan import Lan

ROOT = Path(__file__).parent.parent
SUITE, PYTHON = "trixie", "3.13"
SYSTEM = ("systemd", "systemd-sysv", "dbus", "iproute2", "python3")
BUILD_TOOLS = ("setuptools>=77", "setuptools_scm>=3.4.3", "pkgconfig", "pycparser", "wheel")
"""What tpm2-pytss and we ourselves are built with; pip fetches it where there is a network."""
SOURCES = ("attest", "bootstrap", "keys", "netboot", "docs", "systemd")
FILES = ("pyproject.toml", "LICENSE", "README.md")
BOOT_SECONDS = 60
ENVIRONMENT = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
NSPAWN = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"]
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt/wheels", "PIP_ROOT_USER_ACTION": "ignore"}


def blocks(heading: str) -> list[str]:
    """Give the shell blocks of a section of docs/install.md."""
    text = (ROOT / "docs/install.md").read_text()
    section = re.split(r"^## ", text, flags=re.M)
    found = [part for part in section if part.startswith(f"{heading}\n")]
    assert len(found) == 1, f"docs/install.md has no one section {heading!r}"
    return re.findall(r"```sh\n(.*?)```", found[0], flags=re.S)


def packages() -> list[str]:
    """Give the packages that docs/install.md names."""
    words = shlex.split(blocks("Packages")[0])
    return [word for word in words[2:] if not word.startswith("-")]


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *extras["watch"], *extras["sync"]]


def prepared() -> Path:
    """Give a directory with `root` and `wheels`, built when it is not there yet."""
    wanted = [SUITE, PYTHON, *SYSTEM, *packages(), *dependencies(), *BUILD_TOOLS]
    key = hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]
    cache = default_cache().parent / "container"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (cache / key).exists():
            for left in (path for path in cache.iterdir() if path.is_dir()):
                shutil.rmtree(left)
            _build(cache / f"{key}.new")
            (cache / f"{key}.new").rename(cache / key)
    return cache / key


def _build(place: Path) -> None:
    (place / "wheels").mkdir(parents=True)
    _download(place / "wheels")
    included = ",".join((*SYSTEM, *packages()))
    mirror = find_mirrors()["debian"]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={included}"]
    _checked([*command, SUITE, str(place / "root"), mirror])
    script = f"python3 -m venv /opt/doorstep && /opt/doorstep/bin/pip install -q {_dependencies()}"
    options = [f"--bind-ro={place / 'wheels'}:/mnt/wheels", "--private-network"]
    options += [f"--setenv={name}={value}" for name, value in OFFLINE.items()]
    _checked([*NSPAWN, "-D", str(place / "root"), *options, "sh", "-ec", script])


def _dependencies() -> str:
    return shlex.join(dependencies())


def _download(wheels: Path) -> None:
    """Fetch everything for the container's Python with the host's pip, its index and its CA."""
    fetch = [sys.executable, "-m", "pip", "download", "-q", "--dest", str(wheels)]
    binary = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    for abi in (f"cp{PYTHON.replace('.', '')}", "abi3", "none"):
        binary += ["--abi", abi]
    for platform in ("manylinux2014_x86_64", "manylinux_2_28_x86_64"):
        binary += ["--platform", platform]
    tpm = next(one for one in dependencies() if one.startswith("tpm2-pytss"))
    others = [one for one in dependencies() if one != tpm]
    _checked([*fetch, "--no-deps", "--no-binary=tpm2-pytss", tpm])
    _checked([*fetch, *binary, *others, *BUILD_TOOLS, "cffi", "packaging"])


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {(done.stdout + done.stderr)[-2000:]}"


class Container:
    """A booted controller: `with Container(lan) as one`; its interface is the LAN's."""

    def __init__(self, lan: Lan) -> None:
        """Copy the checkout; nothing is booted before the context is entered."""
        self._lan = lan
        self._work = Path(tempfile.mkdtemp(prefix="doorstep-container-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._binds: list[str] = []
        self.boot_seconds = 0.0
        self.console = self._work / "console"

    def __enter__(self) -> "Container":
        place = prepared()
        for name in (*SOURCES, *FILES):
            _copy(ROOT / name, self._work / "source" / name)
        for name in ("upper", "scratch", "disk"):
            (self._work / name).mkdir()
        default_cache().mkdir(parents=True, exist_ok=True)
        layers = f"lowerdir={place / 'root'},upperdir={self._work / 'upper'}"
        layers += f",workdir={self._work / 'scratch'}"
        _checked(["mount", "-t", "overlay", "overlay", "-o", layers, str(self._work / "disk")])
        self._binds = [
            f"--bind={self._work / 'source'}:/root/doorstep",
            f"--bind-ro={place / 'wheels'}:/mnt/wheels",
            f"--bind-ro={default_cache()}:/root/.cache/doorstep/packages",
        ]
        try:
            self.power_on()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.cut_power()
        subprocess.run(["umount", str(self._work / "disk")], check=False)
        if not (self._work / "disk").is_mount():
            shutil.rmtree(self._work, ignore_errors=True)

    def power_on(self) -> None:
        """Boot, and wait until systemd says that it has."""
        command = [*NSPAWN, "-D", str(self._work / "disk"), "--boot", *self._binds]
        command += [f"--network-namespace-path=/run/netns/{self._lan.appliance_namespace}"]
        command += ["--system-call-filter=bpf", "--machine=doorstep-test"]
        command += ["--capability=CAP_BPF,CAP_PERFMON,CAP_NET_ADMIN"]
        started = time.monotonic()
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                [*command, "systemd.unit=multi-user.target"],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self._wait_for_boot()
        self.boot_seconds = time.monotonic() - started

    def cut_power(self) -> None:
        """Kill process 1, and with it every process at once; what the kernel has of files stays."""
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._leader = 0

    def try_run(self, script: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root inside, as at the controller's own console."""
        command = ["nsenter", "-t", str(self._leader), "-a", "env", "-i", "HOME=/root"]
        command += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        command += [f"{name}={value}" for name, value in OFFLINE.items()]
        command += ["LANG=C.UTF-8", "sh", "-ec", script]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def run(self, script: str, timeout: float = 120) -> str:
        """Run a script that must do; gives what it printed."""
        done = self.try_run(script, timeout)
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def path(self, path: str) -> Path:
        """Give a path inside as we reach it from outside (proc(5), /proc/PID/root)."""
        return Path(f"/proc/{self._leader}/root") / path.lstrip("/")

    def journal(self, lines: int = 60) -> str:
        """Give the end of what our units logged."""
        return self.try_run(f"journalctl -q --no-pager -n {lines} -u 'doorstep-*'").stdout

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        state = "no leader"
        while time.monotonic() < deadline and self._process.poll() is None:
            self._leader = _leader_of(self._process.pid)
            if self._leader:
                state = self.try_run("systemctl is-system-running || true").stdout.strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.1)
        raise AssertionError(f"not booted: {state}\n{self.console.read_text()[-3000:]}")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _leader_of(pid: int) -> int:
    """Give process 1 of the container that nspawn started; 0 when there is none yet."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = Path("/proc/self/ns/pid").readlink()
        inside = [one for one in children if Path(f"/proc/{one}/ns/pid").readlink() != own]
    except OSError:
        return 0
    return int(inside[0]) if inside else 0
