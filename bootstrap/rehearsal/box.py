"""A virtual box: QEMU with firmware, Secure Boot, and a software TPM with certificates.

Slow and real: emulated (no KVM needed), so that the same boot runs in CI and on an appliance. It
ends every process it started, keeps the TPM's and the firmware's state between power cycles, and
touches nothing outside its own directory (swtpm-localca gets a directory of its own too). It never
decides anything about what it measured.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bootstrap.errors import SiteError
from bootstrap.rehearsal.lan import inside
from bootstrap.rehearsal.machine import Machine, amd64

PANIC = b"Kernel panic"


class BoxError(SiteError):
    """A virtual box did not do what was waited for; the text has the end of its console."""


class Boot(StrEnum):
    """From where the firmware starts."""

    PXE = "pxe"
    HTTP = "http"
    ISO = "iso"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxEvent:
    """One event of the machine itself, by QMP's name (SHUTDOWN, RESET, ...)."""

    name: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Where a box's one NIC is plugged in."""

    namespace: str
    tap: str


class TpmCa:
    """A certificate authority of TPM manufacturers for one rehearsal: a root and an issuer."""

    def __init__(self, directory: Path) -> None:
        """Name the files; swtpm_setup makes keys and certificates at the first TPM."""
        self.directory = directory.resolve()
        self.root = self.directory / "swtpm-localca-rootca-cert.pem"
        self.issuer = self.directory / "issuercert.pem"

    def write_config(self) -> Path:
        """Write swtpm_setup's configuration, once, and return its path."""
        self.directory.mkdir(parents=True, exist_ok=True)
        local, options = self.directory / "localca.conf", self.directory / "localca.options"
        setup = self.directory / "setup.conf"
        local.write_text(
            f"statedir = {self.directory}\n"
            f"signingkey = {self.directory}/signkey.pem\n"
            f"issuercert = {self.issuer}\n"
            f"certserial = {self.directory}/certserial\n"
        )
        options.write_text(
            "--platform-manufacturer Doorstep\n--platform-version 1\n--platform-model rehearsal\n"
        )
        setup.write_text(
            f"create_certs_tool = {tool('swtpm_localca')}\n"
            f"create_certs_tool_config = {local}\n"
            f"create_certs_tool_options = {options}\n"
        )
        return setup


class VirtualBox:
    """One box with its own firmware variables and TPM, kept under `directory`.

    Use it as a context manager, or call `stop`; `start` after `stop` is a power cycle. Events of
    the machine since the last start are in `events`, the console in `console` and `serial_log`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        mac: str,
        tpm_ca: TpmCa | None = None,
        secure_boot: bool = True,
        banks: Sequence[str] = ("sha256",),
        memory_mib: int = 1024,
        serial_number: str = "REHEARSAL-1",
        machine: Machine | None = None,
        fw_cfg: Mapping[str, str | Path] | None = None,
    ) -> None:
        """Describe the box; `create` makes its state. Without a `machine` it is a PC with UEFI.

        `fw_cfg` is what QEMU tells the firmware beside that: a text, or the content of a file.
        """
        self.directory = directory.resolve()
        self.mac = mac
        self.tpm_ca = tpm_ca or TpmCa(self.directory / "tpm-ca")
        self.machine = machine or amd64(secure_boot=secure_boot)
        self.banks = tuple(banks)
        self.memory_mib = memory_mib
        self.serial_number = serial_number
        self.fw_cfg = dict(fw_cfg or {})
        self.serial_log = self.directory / "serial.log"
        self._tpm = self.directory / "tpm"
        self._variables = self.directory / "variables.fd"
        self._run: _Run | None = None

    def __enter__(self) -> Self:
        """Make the box's state when it has none."""
        self.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Switch the box off."""
        self.stop()

    def create(self) -> None:
        """Make the firmware variables and a TPM with EK and platform certificates, once."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.machine.variables is not None and not self._variables.exists():
            shutil.copyfile(self.machine.variables, self._variables)
        if self.machine.tpm is not None and not self._tpm.exists():
            self._create_tpm()

    def _create_tpm(self) -> None:
        building = self.directory / "tpm.new"
        building.mkdir()
        command = [tool("swtpm_setup"), "--tpm2", "--tpmstate", str(building), "--overwrite"]
        command += ["--create-ek-cert", "--create-platform-cert", "--lock-nvram"]
        command += ["--pcr-banks", ",".join(self.banks)]
        command += ["--config", str(self.tpm_ca.write_config())]
        command += ["--write-ek-cert-files", str(building)]
        run_tool(command)
        building.rename(self._tpm)

    @property
    def ek_certificates(self) -> tuple[Path, ...]:
        """DER files of the EK certificates, as in the TPM's NV."""
        return tuple(sorted(self._tpm.glob("ek-*.crt")))

    @property
    def ca_certificates(self) -> tuple[Path, Path]:
        """PEM files of the root and of the issuer of the EK certificates."""
        return self.tpm_ca.root, self.tpm_ca.issuer

    def start(
        self,
        boot: Boot,
        *,
        network: Network | None = None,
        iso: Path | None = None,
        disk: Path | None = None,
    ) -> None:
        """Switch the box on; SiteError when it is on already or a part is missing."""
        if self._run is not None and self._run.alive:
            raise SiteError("the virtual box is on already")
        self.stop()
        self.serial_log.write_bytes(b"")
        tpm = self._tpm if self.machine.tpm is not None else None
        self._run = _Run(self._command(boot, network, iso, disk), tpm, self.serial_log)

    def stop(self) -> None:
        """Cut the power; TPM state and firmware variables stay."""
        if self._run is not None:
            self._run.close()

    @property
    def alive(self) -> bool:
        """Tell whether the box is on."""
        return self._run is not None and self._run.alive

    @property
    def events(self) -> tuple[BoxEvent, ...]:
        """The machine's events since the last start."""
        return tuple(self._run.events) if self._run else ()

    @property
    def console(self) -> bytes:
        """All that the serial console said since the last start."""
        return bytes(self._run.console) if self._run else b""

    def wait_for(self, marker: bytes, timeout: float) -> bytes:
        """Wait until the console has `marker`; return the console so far.

        BoxError when the kernel panicked, the box went off before, or `timeout` seconds passed.
        """
        if self._run is None:
            raise SiteError("the virtual box was never started")
        return self._run.wait_for(marker, timeout)

    def wait_off(self, timeout: float) -> bytes:
        """Wait until the box went off by itself; return the whole console, or raise BoxError."""
        if self._run is None:
            raise SiteError("the virtual box was never started")
        return self._run.wait_off(timeout)

    def _command(
        self, boot: Boot, network: Network | None, iso: Path | None, disk: Path | None
    ) -> list[str]:
        command = [tool("setpriv"), "--pdeathsig", "KILL", *self._board()]
        if boot is Boot.HTTP:
            for family in ("IPv4", "IPv6"):
                command += ["-fw_cfg", f"name=opt/org.tianocore/{family}PXESupport,string=n"]
        if network is not None:
            tap = f"tap,id=n0,ifname={network.tap},script=no,downscript=no"
            nic = f"{self.machine.nic},netdev=n0,mac={self.mac}"
            first = ",bootindex=1" if boot is not Boot.ISO else ""
            command += ["-netdev", tap, "-device", nic + first]
        if iso is not None or disk is not None:
            command += ["-device", "virtio-scsi-pci,id=scsi0"]
        if iso is not None:
            command += _drive("cd0", iso, "scsi-cd", 1 if boot is Boot.ISO else None)
        if disk is not None:
            command += _drive("hd0", disk, "scsi-hd", None)
        return inside(network.namespace, command) if network is not None else command

    def _board(self) -> list[str]:
        machine = self.machine
        command = [tool(machine.program), "-nodefaults", "-no-user-config", "-display", "none"]
        command += [*machine.words, "-smp", "1", "-m", str(self.memory_mib), "-no-reboot"]
        command += ["-serial", "stdio", "-device", "virtio-rng-pci"]
        command += ["-smbios", f"type=1,manufacturer=Doorstep,serial={self.serial_number}"]
        if machine.firmware is not None:
            code = f"if=pflash,format=raw,unit=0,file={machine.firmware},readonly=on"
            command += ["-drive", code]
            command += ["-drive", f"if=pflash,format=raw,unit=1,file={self._variables}"]
        if machine.tpm is not None:
            command += ["-device", f"{machine.tpm},tpmdev=t"]
        for name, value in self.fw_cfg.items():
            how = "file" if isinstance(value, Path) else "string"
            command += ["-fw_cfg", f"name={name},{how}={value}"]
        return command


class _Run:
    """One life of QEMU and swtpm, from power on to off."""

    def __init__(self, command: list[str], tpm: Path | None, serial_log: Path) -> None:
        """Start QEMU, with a TPM swtpm too, and a thread that drains the console."""
        self.console = bytearray()
        self.events: list[BoxEvent] = []
        self._changed = threading.Condition()
        self._ended = False
        self._log = serial_log.open("ab", buffering=0)
        tpm_here, tpm_there = socket.socketpair()
        self._monitor, monitor_there = socket.socketpair()
        self._started = threading.Event()
        self._error: str | None = None
        with tpm_here, tpm_there:
            self._swtpm = None if tpm is None else _start_swtpm(tpm, tpm_there.fileno())
            at = None if tpm is None else tpm_here.fileno()
            arguments = (command, at, monitor_there.detach())
            self._reader = threading.Thread(target=self._live, args=arguments, daemon=True)
            self._reader.start()
            self._started.wait()
        if self._error is not None:
            if self._swtpm is not None:
                self._swtpm.kill()
                self._swtpm.wait()
            raise SiteError(self._error)

    @property
    def alive(self) -> bool:
        return self._qemu.poll() is None

    def wait_for(self, marker: bytes, timeout: float) -> bytes:
        with self._changed:
            self._changed.wait_for(
                lambda: marker in self.console or PANIC in self.console or self._ended, timeout
            )
            if marker in self.console:
                return bytes(self.console)
            raise self._failure(f"did not say {marker.decode(errors='replace')!r}", timeout)

    def wait_off(self, timeout: float) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: PANIC in self.console or self._ended, timeout)
            if PANIC in self.console or not self._ended:
                raise self._failure("did not go off", timeout)
            return bytes(self.console)

    def _failure(self, what: str, timeout: float) -> BoxError:
        why = f"in {timeout:.0f} s"
        if PANIC in self.console:
            why = "because its kernel panicked"
        elif self._ended:
            why = "before it went off"
        end = bytes(self.console[-1500:]).decode(errors="replace")
        return BoxError(f"the virtual box {what} {why}; its console ends with:\n{end}")

    def close(self) -> None:
        """End both processes and the thread; may be called again."""
        for process in (self._qemu, self._swtpm):
            if process is None:
                continue
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._reader.join()
        self._monitor.close()
        self._log.close()

    def _live(self, command: list[str], tpm: int | None, monitor: int) -> None:
        """Start QEMU and drain it. It dies with the thread that started it, so with our process."""
        try:
            self._qemu = _start_qemu(command, tpm, monitor)
        except OSError as error:
            self._error = f"cannot start QEMU: {error}"
            self._started.set()
            return
        finally:
            os.close(monitor)
        try:
            self._monitor.sendall(b'{"execute":"qmp_capabilities"}\n')
            greeting = self._monitor.recv(65536)
        except OSError:
            greeting = b""
        if not greeting:
            said = self._qemu.communicate()[0].decode(errors="replace").strip()
            self._error = f"QEMU ended at once: {said}"
        self._started.set()
        if greeting:
            self._drain(greeting)

    def _drain(self, partial: bytes) -> None:
        assert self._qemu.stdout is not None
        serial = self._qemu.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(serial, selectors.EVENT_READ)
            selector.register(self._monitor, selectors.EVENT_READ)
            while selector.get_map():
                for key, _ in selector.select():
                    data = _read(key.fd)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is serial:
                        self._say(data)
                    else:
                        *lines, partial = (partial + data).split(b"\n")
                        self._note(lines)
        serial.close()
        self._qemu.wait()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _say(self, data: bytes) -> None:
        self._log.write(data)
        with self._changed:
            self.console += data
            self._changed.notify_all()

    def _note(self, lines: list[bytes]) -> None:
        with self._changed:
            for message in (json.loads(line) for line in lines if line.strip()):
                if "event" in message:
                    event = BoxEvent(name=message["event"], data=message.get("data", {}))
                    self.events.append(event)
            self._changed.notify_all()


def _read(descriptor: int) -> bytes:
    """Read what is there; nothing when the other end is gone, however it went."""
    try:
        return os.read(descriptor, 65536)
    except ConnectionResetError:
        return b""


def _start_swtpm(state: Path, control: int) -> subprocess.Popen[bytes]:
    command = [tool("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={state}"]
    command += ["--ctrl", f"type=unixio,clientfd={control}", "--terminate"]
    with (state.parent / "swtpm.log").open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(control,)
        )


def _start_qemu(command: list[str], tpm: int | None, monitor: int) -> subprocess.Popen[bytes]:
    passed = [monitor]
    command = [*command, "-chardev", f"socket,id=q,fd={monitor}"]
    command += ["-mon", "chardev=q,mode=control"]
    if tpm is not None:
        passed.append(tpm)
        command += ["-chardev", f"socket,id=c,fd={tpm}", "-tpmdev", "emulator,id=t,chardev=c"]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=passed,
    )


def _drive(name: str, path: Path, device: str, order: int | None) -> list[str]:
    read_only = ",readonly=on" if device == "scsi-cd" else ""
    boot = f",bootindex={order}" if order else ""
    drive = f"if=none,id={name},format=raw,file={path.resolve()}{read_only}"
    return ["-drive", drive, "-device", f"{device},drive={name},bus=scsi0.0{boot}"]


_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-system-aarch64": "qemu-system-arm",
    "setpriv": "util-linux",
    "swtpm": "swtpm",
    "swtpm_setup": "swtpm-tools",
    "swtpm_localca": "swtpm-tools",
}


def tool(name: str) -> str:
    """Find a program; SiteError says which package has it."""
    path = shutil.which(name)
    if path is None:
        raise SiteError(f"{name} is missing: apt-get install {_TOOLS[name]}")
    return path


def run_tool(command: list[str]) -> None:
    """Run a program to its end; SiteError with what it said when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SiteError(f"{Path(command[0]).name} failed: {(done.stdout + done.stderr).strip()}")
