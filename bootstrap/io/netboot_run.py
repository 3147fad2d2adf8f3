"""`doorstep netboot run`: netboot alone, in the foreground, from a site file that is watched.

The plan is the one that control would make of the same file with no box in it. A file that cannot
be served is told of with everything that is wrong, and the plan before goes on. docs/netboot.md.
"""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bootstrap.check_network import check_network
from bootstrap.errors import SiteError
from bootstrap.io import zone_files
from bootstrap.io.metrics_file import MetricsFile
from bootstrap.io.plan_files import PlanFiles, Stamp, stamps
from bootstrap.io.planner import PLAN, keep_files, read_plan, write_plan
from bootstrap.io.references import load_published
from bootstrap.io.site_dir import ROOT_PUB
from bootstrap.io.zone_files import ZoneFiles
from bootstrap.planning import grub_cfg_files, make_plan
from bootstrap.published import PublishedState
from bootstrap.site import Problem, Severity, SiteFileError, SiteOfNetboot, decode_netboot_site
from bootstrap.site_dns import ZoneFile
from keys.errors import KeysError
from netboot.bootset import BootSetManifest
from netboot.errors import NetbootError
from netboot.io.bootsets import BootSetStore
from netboot.io.own_ksk import OwnKsk
from netboot.io.probe import PROBE_SECONDS
from netboot.io.service import Netboot
from netboot.io.workers import State
from netboot.io.zones import Signing
from netboot.plan import Plan
from netboot.plan_check import check

OWN_KSK = Path("netboot/zone-ksk.pem")
LOOK_SECONDS = 0.25
"""Between looks whether the site file changed."""

Say = Callable[[str], None]
_Looked = tuple[object, ...]


class SiteCompiler:
    """One site file and one state directory: makes the plan, and sees when it may be another."""

    def __init__(self, file: Path, state: Path) -> None:
        """Name both; nothing is read yet."""
        self.file, self.state = file, state
        self._files = PlanFiles(state / "plan" / "files")
        self._looked: _Looked | None = None
        self._source: Path | None = None
        self._zone_files = ZoneFiles(self._files)
        self._zones: tuple[ZoneFile, ...] = ()

    def has_changed(self) -> bool:
        """Tell whether anything that the plan is made of is another than at the last call."""
        looked = self._look()
        changed, self._looked = looked != self._looked, looked
        return changed

    def _look(self) -> _Looked:
        published = self.state / "bootsets" / "published.json"
        zones = zone_files.stamps(self.file.parent, self._zones)
        return (_stamp(self.file), _stamp(published), self._look_at_files(), zones)

    def _look_at_files(self) -> tuple[Stamp, ...] | str:
        try:
            return stamps(self._source) if self._source is not None else ()
        except SiteError as error:
            return str(error)

    def compile(self, *, keep: bool = True) -> Plan:
        """Make the plan, number 0; SiteFileError or SiteError with everything that is wrong.

        `keep` puts the files that it names into the state, ready to be served.
        """
        site = self.read()
        self._source = self.file.parent / site.boot.files if site.boot.files else None
        self._zones = site.zones
        problems = [one for one in check_network(site) if one.severity is Severity.ERROR]
        if problems:
            raise SiteFileError([replace(one, file=self.file.name) for one in problems])
        served, accepted = self._sets(site, keep=keep)
        own = self._files.take(self._source) if keep else PlanFiles.look(self._source)
        of_files = self._zone_files if keep else ZoneFiles(None)
        zones = of_files.take(self.file.parent, site.zones)
        plan = make_plan(site, (), served, accepted, 0, files=own, zones=zones, enrols=False)
        sentences = check(plan)
        if sentences:
            raise SiteFileError([_problem(self.file.name, sentence) for sentence in sentences])
        return plan

    def read(self) -> SiteOfNetboot:
        """Read the file; SiteFileError or SiteError."""
        try:
            data = self.file.read_bytes()
        except OSError as error:
            raise SiteError(f"{self.file}: {error.strerror}: name a site file") from error
        return decode_netboot_site(data, self.file.name)

    def _sets(
        self, site: SiteOfNetboot, *, keep: bool
    ) -> tuple[list[BootSetManifest], list[BootSetManifest]]:
        """Give the sets that are published in the state; verified where the site's key is there."""
        store = BootSetStore(self.state / "bootsets")
        key = self.file.parent / ROOT_PUB
        served: list[BootSetManifest] = []
        accepted: list[BootSetManifest] = []
        for one in load_published(self.state / "bootsets").sets:
            if not one.is_accepted(time.time()):
                continue
            if key.exists():
                manifest = store.verified_manifest(one.digest, key.read_bytes())
            else:
                manifest = store.manifest(one.digest)
            if keep:
                for data in grub_cfg_files(site, manifest):
                    store.add_file(data, "grub.cfg")
            (served if one.state is PublishedState.SERVED else accepted).append(manifest)
        return served, accepted

    def write(self, plan: Plan) -> None:
        """Make a plan durable with the next number, unless it says what the last one says."""
        directory = self.state / "plan"
        last = read_plan(directory / PLAN)
        if last is not None and replace(plan, number=last.number) == last:
            return
        write_plan(directory, replace(plan, number=1 + (last.number if last else 0)))
        keep_files(directory, self._files)


def serve(
    file: Path,
    state: Path,
    *,
    probe: bool,
    sign: bool | None,
    say: Say,
    metrics: Path | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the file at once. SiteError when it cannot.

    `sign` None signs the zones that the site file marks; `metrics` is a file to write counts to.
    """
    stopped, hup = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.set())
    signal.signal(signal.SIGHUP, lambda number, _: hup.set())
    compiler = SiteCompiler(file, state)
    with _own_state(state):
        plan = compiler.compile()
        compiler.has_changed()
        compiler.write(plan)
        netboot = Netboot(state, PROBE_SECONDS if probe else 0.0, signing=_signing(state, sign))
        netboot.services.start()
        say("started")
        for sentence in describe(plan):
            say(sentence)
        try:
            _loop(compiler, _Reporter(netboot, say, metrics), stopped, hup, say)
        finally:
            netboot.services.stop()
    say("stopped")


def _signing(state: Path, sign: bool | None) -> Signing | None:
    if sign is False:
        return None
    return Signing(sign=OwnKsk(state / OWN_KSK).sign, marked_only=sign is None)


def _loop(
    compiler: SiteCompiler,
    reporter: _Reporter,
    stopped: threading.Event,
    hup: threading.Event,
    say: Say,
) -> None:
    while not stopped.is_set():
        if compiler.has_changed() or hup.is_set():
            hup.clear()
            _take_again(compiler, say)
        reporter.netboot.turn()
        reporter.turn()
        stopped.wait(LOOK_SECONDS)


def _take_again(compiler: SiteCompiler, say: Say) -> None:
    try:
        compiler.write(compiler.compile())
    except (SiteError, NetbootError, KeysError) as error:
        say(f"plan-kept: what is served stays as it is. {compiler.file} is not taken:\n{error}")


class _Reporter:
    """Says once what is served, and each thing that a person should know when it comes."""

    def __init__(self, netboot: Netboot, say: Say, metrics: Path | None) -> None:
        self.netboot, self._services, self._say = netboot, netboot.services, say
        self._metrics = None if metrics is None else MetricsFile(metrics, self._exposition)
        self._number = 0
        self._told: frozenset[str] = frozenset()

    def turn(self) -> None:
        """Look once. SiteError when another DHCP server answers before we serve."""
        services = self._services
        plan, states = services.running, services.states
        if State.REFUSED in (states["dhcp"], states.get("dhcp6")) and not self._number:
            raise SiteError("; ".join(services.sentences()))
        sentences = frozenset((*services.sentences(), *self._write_metrics()))
        for sentence in sorted(sentences - self._told):
            self._say(sentence)
        self._told = sentences
        is_settled = not {State.WAITING, State.LOOKING} & set(states.values())
        if plan is not None and is_settled and plan.number != self._number:
            self._number = plan.number
            self._say(ready(plan, states))

    def _write_metrics(self) -> Iterator[str]:
        if self._metrics is not None:
            self._metrics.turn()
            if self._metrics.trouble is not None:
                yield self._metrics.trouble

    def _exposition(self) -> bytes:
        from bootstrap.metrics import exposition  # its library is not needed otherwise

        leases = sum(1 for _ in self._services.store.current_leases(time.time()))
        return exposition(self.netboot.methods()["status"].handler("", {}), leases)


def ready(plan: Plan, states: dict[str, State]) -> str:
    """Say which sockets are open: `serving DHCP on eth1, TFTP, HTTP and DNS on 10.41.7.2 …`."""
    on = sorted({one.interface for one in plan.subnets if one.dhcp == "server"})
    beside = sorted({one.interface for one in plan.subnets if one.dhcp == "proxy"})
    on6 = sorted({one.interface for one in plan.subnets6 if one.dhcp != "off"})
    own = [str(one) for one in (*plan.addresses(), *plan.addresses6())]
    names_on = [str(one) for one in plan.listening()]
    said = []
    if states["dhcp"] is State.SERVING:
        said.append(f"DHCP on {', '.join(on)}")
    if states.get("proxy") is State.SERVING:
        said.append(f"proxyDHCP on {', '.join(beside)}")
    if states.get("dhcp6") is State.SERVING:
        said.append(f"DHCPv6 on {', '.join(on6)}")
    names = {"tftp": "TFTP", "http": "HTTP", "dns": "DNS"}
    kinds = [name for key, name in names.items() if states[key] is State.SERVING]
    if own and names_on == own:
        said.append(f"{', '.join(kinds)} on {', '.join(own)}")
    else:
        files = [name for name in kinds if own and name != "DNS"]
        said += [f"{', '.join(files)} on {', '.join(own)}"] if files else []
        said += [f"DNS on {', '.join(names_on)}"] if "DNS" in kinds else []
    return f"serving {'; '.join(said) or 'nothing'} (plan {plan.number})"


def describe(plan: Plan) -> Iterator[str]:
    """Say what a plan is about to serve, subnet by subnet."""
    for one in plan.subnets:
        size = sum(int(pool.last) - int(pool.first) + 1 for pool in one.pools)
        hosts = [each.address for each in plan.reservations if each.address is not None]
        reserved = sum(address in one.network for address in hosts)
        what = {"server": f"{size} addresses to lend, {reserved} reserved"}.get(one.dhcp, one.dhcp)
        where = "through relays" if one.relayed else f"on {one.interface}"
        yield f"subnet {one.name}, {one.network} {where}: DHCP {what}"
    for six in plan.subnets6:
        yield f"subnet {six.name}, {six.network} on {six.interface}: DHCPv6 {six.dhcp}"
    for zone in plan.zones:
        yield f"zone {zone.name} from {zone.file}{', to be signed' if zone.signed else ''}"
    if plan.boot is None and not (plan.subnets or plan.subnets6):
        return
    if plan.boot is None:
        yield "nothing is booted from here: there is no boot set and no [[boot.rule]]"
        return
    yield (
        f"boot files: {len(plan.boot.digests())}, boot sets: {len(plan.boot.sets)}, "
        f"own rules: {len(plan.boot.rules)}"
    )


def _problem(file: str, sentence: str) -> Problem:
    return Problem(file=file, key="", what=sentence, remedy="correct it")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


@contextmanager
def _own_state(state: Path) -> Iterator[None]:
    """Make the state's directories and hold them alone; SiteError."""
    if (state / "site").exists():
        raise SiteError(f"{state} is the state of a whole appliance: give another with --state")
    try:
        for name in ("netboot", "plan", "bootsets"):
            (state / name).mkdir(parents=True, exist_ok=True)
        handle = os.open(state / "netboot" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}: give a directory of your own with --state"
        raise SiteError(text) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise SiteError(
            f"{state} is in use: another `doorstep netboot run` serves from it"
        ) from None
    try:
        yield
    finally:
        os.close(handle)
