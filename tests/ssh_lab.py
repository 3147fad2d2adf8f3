"""A network namespace with a stock sshd and stock SSH clients: names, keys and files of its own.

sshd serves what the agent writes for a box, with the lines that the agent writes for sshd.
"""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from bootstrap.agent import ssh
from bootstrap.agent.ssh import HostKey

_numbers = itertools.count()
ADDRESS, ADDRESS6, OTHER = "10.41.7.20", "fd00:41:7::20", "10.41.7.21"
"""Of the box; nobody answers at `OTHER` but the same sshd."""
SSHD = """
ListenAddress 0.0.0.0
ListenAddress ::
Include {seed}/ssh/sshd.conf
AuthorizedKeysFile {base}/login.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
LogLevel VERBOSE
"""


class SshLab:
    """`with SshLab(path, hosts) as lab`: starts one sshd after the other on port 22.

    Names of `hosts` are known without a name server; others are looked for in `domain` too.
    """

    def __init__(self, base: Path, hosts: Mapping[str, str], domain: str = "") -> None:
        self.base, self.seed = base, base / "seed"
        self.namespace = f"dssh-{os.getpid():x}-{next(_numbers)}"
        self.etc = Path("/etc/netns", self.namespace)
        self.hosts, self.domain = hosts, domain
        self.host_key: HostKey = ssh.make_host_key(os.urandom(ssh.DRAWN_BYTES))
        self._sshd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> SshLab:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        run("ip", "netns", "add", self.namespace)
        self.etc.mkdir(parents=True)
        lines = [f"{address} {name}\n" for name, address in self.hosts.items()]
        (self.etc / "hosts").write_text("".join(lines))
        self.ask_names_of("127.0.0.1")
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        for address in (f"{ADDRESS}/32", f"{OTHER}/32", f"{ADDRESS6}/128"):
            run("ip", "-n", self.namespace, "address", "add", address, "dev", "lo")
        key = self.base / "login"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        # An account without a password may be locked here: sshd would refuse it.
        accounts = Path("/etc/shadow").read_text().splitlines(keepends=True)
        open_root = [
            "root:*:19000:0:99999:7:::\n" if a.startswith("root:") else a for a in accounts
        ]
        shadow = self.base / "shadow"
        shadow.touch(0o600)
        shadow.write_text("".join(open_root))

    def close(self) -> None:
        """Remove the namespace and its files."""
        self.stop()
        for name in ("hosts", "resolv.conf"):
            (self.etc / name).unlink(missing_ok=True)
        if self.etc.exists():
            self.etc.rmdir()
        subprocess.run(
            ["ip", "netns", "delete", self.namespace], check=False, capture_output=True, timeout=30
        )

    # the box

    def serve(self, certificate: str | None) -> None:
        """Start sshd as a box has it after its hand-over; without a certificate: as before."""
        self.stop()
        directory = self.seed / "ssh"
        directory.mkdir(parents=True, exist_ok=True)
        key = directory / ssh.FILE
        key.touch(0o600)
        key.write_bytes(self.host_key.private)
        (directory / f"{ssh.FILE}.pub").write_bytes(self.host_key.public_line)
        if certificate is not None:
            (directory / ssh.CERTIFICATE).write_text(certificate + "\n")
        hint = ssh.sshd_hint(str(directory), is_certified=certificate is not None)
        (directory / ssh.HINT).write_bytes(hint)
        config, log = self.base / "sshd_config", self.base / "sshd.log"
        config.write_text(SSHD.format(seed=self.seed, base=self.base))
        log.write_text("")
        words = f"""
            set -e
            mount --bind {shlex.quote(str(self.base / "shadow"))} /etc/shadow
            mount -t tmpfs tmpfs /run
            mkdir -m 755 /run/sshd
            exec /usr/sbin/sshd -D -f {shlex.quote(str(config))} -E {shlex.quote(str(log))}
        """
        self._sshd = subprocess.Popen(self.inside("sh", "-c", words))
        self._wait_until_it_listens(1)

    def renew(self, certificate: str) -> None:
        """Have sshd serve another certificate, as after a renewal."""
        assert self._sshd is not None
        (self.seed / "ssh" / ssh.CERTIFICATE).write_text(certificate + "\n")
        self._sshd.send_signal(signal.SIGHUP)
        self._wait_until_it_listens(2)

    def _wait_until_it_listens(self, times: int) -> None:
        assert self._sshd is not None
        log, end = self.base / "sshd.log", time.monotonic() + 20
        while log.read_text().count("Server listening on :: port 22") < times:
            assert self._sshd.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """End sshd."""
        if self._sshd is not None:
            self._sshd.terminate()
            self._sshd.wait(timeout=20)
            self._sshd = None

    # its clients

    def ask_names_of(self, resolver: str) -> None:
        """Let clients ask a name server, and believe it what it says it has checked."""
        text = f"nameserver {resolver}\noptions edns0 trust-ad\n"
        text += f"search {self.domain}\n" if self.domain else ""
        (self.etc / "resolv.conf").write_text(text)

    def inside(self, *command: str | Path) -> list[str]:
        """Give a command that runs in the namespace."""
        return ["ip", "netns", "exec", self.namespace, *map(str, command)]

    def connect(
        self, name: str, known_hosts: str, *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Log in by a name, as a client that asks nobody; it says `reached` where it got in."""
        known = self.base / "known_hosts"
        known.write_text(known_hosts)
        fixed = (
            f"UserKnownHostsFile={known}",
            "GlobalKnownHostsFile=/dev/null",
            f"IdentityFile={self.base / 'login'}",
            "IdentitiesOnly=yes",
            "BatchMode=yes",
            "UpdateHostKeys=no",
            "ConnectTimeout=20",
        )
        words = ["ssh", "-F", "none", "-l", "root"]
        # of two values of one option the first is taken
        for one in (*options, "StrictHostKeyChecking=yes", *fixed):
            words += ["-o", one]
        return subprocess.run(
            self.inside(*words, name, "echo reached"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout
