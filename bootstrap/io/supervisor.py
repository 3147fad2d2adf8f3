"""`doorstep run`: starts every process of the appliance as its own user and keeps it running.

Root is needed to make directories and to change users, and serves nothing itself. It refuses the
state of a rehearsal. Children die with it (PR_SET_PDEATHSIG) and get no right but the capabilities
in `RIGHTS`. The same code runs a rehearsal's site, in whatever network namespace it is called.
docs/architecture.md, "Directories"; setpriv(1); systemd/ has the same as units.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from bootstrap.errors import SiteError
from bootstrap.io.site_dir import check_site, errors_of, load
from bootstrap.io.tpm_device import device_of, group_of
from bootstrap.site import SiteFileError
from keys.io.layout import REHEARSAL_MARK, Layout

ORDER = ("keys", "control", "netboot", "enroll", "page", "nginx", "watch", "sync")
RIGHTS: Mapping[str, tuple[str, ...]] = {
    "netboot": ("net_bind_service", "net_raw"),
    "nginx": ("net_bind_service",),
    "watch": ("net_raw",),
}
"""Capabilities of each service; one that is not named has none."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
STEADY_SECONDS = 60.0
"""A process that ran this long begins again with the first pause."""
STOP_SECONDS = 10.0
_TURN = 0.1
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}

_NO_GROUPS = ("--clear-groups",)

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One process to keep running: a command and as whom."""

    name: str
    command: Sequence[str]
    uid: int
    rights: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()

    def privileged_command(self) -> list[str]:
        """Wrap the command so that it begins with this user and these rights alone."""
        drop = ",".join(("-all", *(f"+{right}" for right in self.rights)))
        groups = ("--groups", ",".join(map(str, self.groups))) if self.groups else _NO_GROUPS
        return [
            "setpriv",
            *("--reuid", str(self.uid), "--regid", str(gid_of(self.uid)), *groups),
            *("--inh-caps", drop, "--ambient-caps", drop, "--bounding-set", drop),
            *("--no-new-privs", "--pdeathsig", "TERM", "--"),
            *self.command,
        ]


@dataclass(slots=True)
class _Child:
    job: Job
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = field(default=FIRST_PAUSE)
    again: float = 0.0


class Supervisor:
    """Keeps jobs running until it is told to stop."""

    def __init__(self, jobs: Sequence[Job], report: Report) -> None:
        """Keep the jobs in the order in which they start; nothing runs before `serve`."""
        self._children = [_Child(job) for job in jobs]
        self._report = report
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make `serve` end; may be called from any thread or a signal handler."""
        self._stop.set()

    def serve(self) -> None:
        """Start everything, restart what dies with growing pauses, end all when told.

        Children are bound to the thread that calls this: they end when it ends.
        """
        try:
            while not self._stop.is_set():
                for child in self._children:
                    self._turn(child, time.monotonic())
                self._stop.wait(_TURN)
        finally:
            self._end_all()

    def pids(self) -> dict[str, int]:
        """Give the process id of each job that runs now."""
        return {
            child.job.name: child.process.pid
            for child in self._children
            if child.process is not None
        }

    def _turn(self, child: _Child, now: float) -> None:
        if child.process is None:
            if now >= child.again:
                self._start(child, now)
            return
        status = child.process.poll()
        if status is None:
            return
        if now - child.started >= STEADY_SECONDS:
            child.pause = FIRST_PAUSE
        child.process, child.again = None, now + child.pause
        self._report(f"{child.job.name}: {_ended(status)}; again in {child.pause:.0f} s")
        child.pause = min(2 * child.pause, LONGEST_PAUSE)

    def _start(self, child: _Child, now: float) -> None:
        child.process = subprocess.Popen(
            child.job.privileged_command(),
            stdin=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        child.started = now
        self._report(f"{child.job.name}: started as {child.process.pid}")

    def _end_all(self) -> None:
        """Tell all to end, the last started first; kill what does not."""
        for child in reversed(self._children):
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in reversed(self._children):
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._report(f"{child.job.name}: does not end: killed")
                child.process.kill()
                child.process.wait()
            child.process = None
        self._report("everything has ended")


def run(layout: Layout, report: Report, *, rehearsal: bool = False) -> None:
    """Check the site, make its directories and keep its services running until SIGTERM or SIGINT.

    SiteError says why it does not start. Must be called in the main thread, as root.
    """
    prepare(layout, rehearsal=rehearsal)
    supervisor = Supervisor(jobs(layout), report)

    def told(number: int, frame: FrameType | None) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, told)
    supervisor.serve()


def prepare(layout: Layout, *, rehearsal: bool = False) -> None:
    """Check that this site may run here and make its directories; SiteError when it may not."""
    if os.geteuid() != 0:
        raise SiteError("`doorstep run` needs root to give each process its own user: use sudo")
    for program, package in (("setpriv", "util-linux"), ("nginx", "nginx-light")):
        if shutil.which(program) is None:
            raise SiteError(f"{program} is missing: apt-get install {package}")
    mark = layout.state / REHEARSAL_MARK
    if mark.exists() and not rehearsal:
        raise SiteError(f"{layout.state} belongs to a rehearsal: give another --state")
    if rehearsal and not mark.exists():
        raise SiteError(f"{mark} is missing: a rehearsal runs on a state of its own only")
    _, problems = check_site(layout.site, layout.state)
    if errors := errors_of(problems):
        raise SiteFileError(errors)
    for directory in directories(layout):
        directory.make()


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory with its owner and mode."""

    path: Path
    uid: int
    gid: int
    mode: int

    def make(self) -> None:
        """Make it, or give it back its owner and mode; SiteError when that cannot be."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            os.chown(self.path, self.uid, self.gid, follow_symlinks=False)
            self.path.chmod(self.mode)
        except OSError as error:
            raise SiteError(f"cannot make {self.path}: {error.strerror}") from error


def directories(layout: Layout) -> Iterator[Directory]:
    """Give every directory of a running site, parents first.

    Where nginx reaches a socket, the directory hands its group on (setgid): nobody else can.
    """
    yield from (
        Directory(path=path, uid=0, gid=0, mode=0o755)
        for path in (layout.state, layout.state / "bootsets", layout.run)
    )
    for name, service, mode in (
        ("netboot", "netboot", 0o700),
        ("watch", "watch", 0o700),
        ("sync", "sync", 0o700),
        ("site", "control", 0o700),
        ("evidence", "control", 0o700),
        ("plan", "control", 0o755),
        ("keys", "keys", 0o700),
    ):
        yield _owned(layout, layout.state / name, service, mode)
    for service in ("netboot", "control", "keys", "watch", "sync"):
        yield _owned(layout, layout.run / service, service, 0o755)
    for service in ("enroll", "page"):
        yield _owned(layout, layout.run / service, service, 0o2755, group="nginx")
    yield _owned(layout, layout.run / "nginx", "nginx", 0o700)
    yield _owned(layout, layout.run / "tls", "keys", 0o2750, group="nginx")


def jobs(layout: Layout) -> list[Job]:
    """Give the process of every service."""
    users = ",".join(f"{name}={uid}" for name, uid in layout.users.items())
    places = ["--site", str(layout.site), "--state", str(layout.state), "--run", str(layout.run)]
    return [
        Job(
            name=name,
            command=service_command(name, [*places, "--users", users]),
            uid=layout.users[name],
            rights=RIGHTS.get(name, ()),
            groups=_tpm_groups(layout) if name == "keys" else (),
        )
        for name in ORDER
    ]


def _tpm_groups(layout: Layout) -> tuple[int, ...]:
    """Give the group of the controller's TPM, which `keys` alone belongs to."""
    device = device_of(load(layout.site))
    group = None if device is None else group_of(device)
    return () if group is None else (group,)


def service_command(name: str, options: Sequence[str]) -> list[str]:
    """Give the command of one service; isolated, so that nothing of the caller's leads Python."""
    return [sys.executable, "-I", "-m", "bootstrap.cli", "service", name, *options]


def gid_of(uid: int) -> int:
    """Give the group of a user, or the same number where the user has no name."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def _owned(
    layout: Layout, path: Path, service: str, mode: int, group: str | None = None
) -> Directory:
    uid = layout.users[service]
    return Directory(path=path, uid=uid, gid=gid_of(layout.users[group or service]), mode=mode)


def _ended(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
