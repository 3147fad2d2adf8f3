"""Keystone and Barbican themselves, from the index, on SQLite and loopback.

`Lab` starts both in a directory of its own, and makes projects, application credentials and
secrets through their interfaces, as an operator would. Either can be killed and started again.
They are installed once, into an environment below ~/.cache/doorstep, never beside our packages.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import secrets
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

PINS = ("barbican==23.0.0", "keystone==30.0.0", "waitress==3.0.2")
READ_ONLY = (
    {"service": "key-manager", "method": "GET", "path": "/v1/secrets"},
    {"service": "key-manager", "method": "GET", "path": "/v1/secrets/**"},
    {"service": "identity", "method": "GET", "path": "/v3/users/*/application_credentials/*"},
)
"""What sync needs and no more; the last line lets it see when its credential ends."""
START_LIMIT = 120
INSTALL_LIMIT = 900

KEYSTONE = """\
[DEFAULT]
use_stderr = true
[database]
connection = sqlite:///{directory}/keystone.db
[identity]
password_hash_rounds = 4
[fernet_tokens]
key_repository = {directory}/fernet
[fernet_receipts]
key_repository = {directory}/fernet
"""
BARBICAN = """\
[DEFAULT]
use_stderr = true
db_auto_create = true
host_href = {barbican}
max_allowed_secret_in_bytes = 200000
max_allowed_request_size_in_bytes = 400000
[database]
connection = sqlite:///{directory}/barbican.db
[queue]
enable = False
[secretstore]
enabled_secretstore_plugins = store_crypto
[crypto]
enabled_crypto_plugins = simple_crypto
[simple_crypto_plugin]
kek = {kek}
[keystone_authtoken]
auth_url = {keystone}/v3
www_authenticate_uri = {keystone}/v3
auth_type = password
username = admin
password = {password}
user_domain_id = default
project_name = admin
project_domain_id = default
service_type = key-manager
token_cache_time = -1
"""
SERVE = """\
import sys
from waitress import serve
port, service = int(sys.argv[1]), sys.argv[2]
sys.argv = [service]
if service == "keystone":
    from keystone.wsgi.api import application
else:
    from paste.deploy import loadapp
    application = loadapp(f"config:{sys.prefix}/etc/barbican/barbican-api-paste.ini")
serve(application, host="127.0.0.1", port=port, threads=4)
"""


def environment() -> Path:
    """Give the bin directory of the environment with both; makes it once, whoever comes first."""
    what = "\n".join((*PINS, sys.version)).encode()
    root = (
        Path.home() / ".cache" / "doorstep" / f"upstreams-{hashlib.sha256(what).hexdigest()[:12]}"
    )
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", root], check=True)
            pip = [root / "bin" / "pip", "install", "-q", "--disable-pip-version-check", *PINS]
            done = subprocess.run(pip, capture_output=True, timeout=INSTALL_LIMIT)
            assert done.returncode == 0, f"pip could not install {PINS}: {done.stderr[-2000:]!r}"
            (root / "complete").touch()
    return root / "bin"


def free_port() -> int:
    """Give a port of loopback that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one of the two answered."""

    status: int
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project, and one user in it."""

    project_id: str
    name: str
    user_id: str
    user: str
    password: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """An application credential as Keystone gave it."""

    credential_id: str
    secret: str

    @property
    def file(self) -> bytes:
        """What the operator hands to a site."""
        texts = {
            "application_credential_id": self.credential_id,
            "application_credential_secret": self.secret,
        }
        return json.dumps(texts).encode()


class Service:
    """One of the two, as a process of its own; its port stays the same over restarts."""

    def __init__(self, name: str, python: Path, directory: Path) -> None:
        """Take what to run."""
        self.name, self.port = name, free_port()
        self.log = directory / f"{name}.log"
        self._command = [python, "-c", SERVE, str(self.port), name]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=lab_environment(self._directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(START_LIMIT * 10):
            if self._answers():
                return
            try:  # the pause is the wait for it to die
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            break
        raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


class Lab:
    """Both services, and what an operator does with them; a context."""

    def __init__(self, directory: Path) -> None:
        """Take an empty directory; nothing is started yet."""
        self.directory, self._bin = directory, environment()
        self._password = secrets.token_hex(16)
        self.keystone = Service("keystone", self._bin / "python", directory)
        self.barbican = Service("barbican", self._bin / "python", directory)

    def __enter__(self) -> Lab:
        """Set both up and start them."""
        self._configure()
        try:
            self.keystone.start()
            self.barbican.start()
            self._announce()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End both."""
        self.keystone.kill()
        self.barbican.kill()

    @property
    def auth_url(self) -> str:
        """Keystone's address as the site file has it."""
        return f"{self.keystone.url}/v3"

    def project(self, name: str) -> Project:
        """Make a project and a user who is a member of it."""
        project = {"project": {"name": name, "domain_id": "default"}}
        made = self._keystone("POST", "/projects", project, self._admin())
        return self._member(name, name, made["project"]["id"])

    def colleague(self, project: Project, user: str) -> Project:
        """Make another user who is a member of a project."""
        return self._member(project.name, user, project.project_id)

    def _member(self, name: str, user: str, project_id: str) -> Project:
        admin, password = self._admin(), secrets.token_hex(16)
        person = {"user": {"name": user, "domain_id": "default", "password": password}}
        made = self._keystone("POST", "/users", person, admin)["user"]["id"]
        roles = self._keystone("GET", "/roles", None, admin)["roles"]
        role = next(one["id"] for one in roles if one["name"] == "member")
        self._keystone("PUT", f"/projects/{project_id}/users/{made}/roles/{role}", None, admin)
        return Project(project_id=project_id, name=name, user_id=made, user=user, password=password)

    def token(self, project: Project) -> str:
        """Log a project's user in with the password."""
        return self._login(project.user, project.password, project.name)

    def issue(self, project: Project, ends: datetime | None, role: str = "member") -> Issued:
        """Make a read-only application credential that ends then."""
        wanted = {
            "name": secrets.token_hex(8),
            "roles": [{"name": role}],
            "access_rules": list(READ_ONLY),
            "expires_at": None if ends is None else _naive(ends),
        }
        made = self._keystone(
            "POST",
            f"/users/{project.user_id}/application_credentials",
            {"application_credential": wanted},
            self.token(project),
        )["application_credential"]
        return Issued(credential_id=made["id"], secret=made["secret"])

    def take_away(self, project: Project, issued: Issued) -> None:
        """Delete an application credential."""
        path = f"/users/{project.user_id}/application_credentials/{issued.credential_id}"
        self._keystone("DELETE", path, None, self.token(project))

    def store(
        self, project: Project, name: str, value: bytes, expires: datetime | None = None
    ) -> str:
        """Store a secret; gives its address in Barbican."""
        wanted = {
            "name": name,
            "payload": base64.b64encode(value).decode(),
            "payload_content_type": "application/octet-stream",
            "payload_content_encoding": "base64",
        }
        if expires is not None:
            wanted["expiration"] = _naive(expires)
        answer = self.ask("POST", "/v1/secrets", wanted, self.token(project))
        assert answer.status == 201, answer.body
        return str(answer.body["secret_ref"])

    def delete(self, project: Project, reference: str) -> None:
        """Delete one secret there."""
        path = reference.removeprefix(self.barbican.url)
        assert self.ask("DELETE", path, None, self.token(project)).status == 204

    def ask(self, method: str, path: str, body: object, token: str) -> Answer:
        """Ask Barbican anything with a token."""
        return call(method, f"{self.barbican.url}{path}", body, token)

    def token_of(self, issued: Issued) -> str:
        """Log in with an application credential, as whoever stole it would."""
        method = {"id": issued.credential_id, "secret": issued.secret}
        identity = {"methods": ["application_credential"], "application_credential": method}
        answer = call("POST", f"{self.auth_url}/auth/tokens", {"auth": {"identity": identity}}, "")
        return answer.headers["X-Subject-Token"]

    def _admin(self) -> str:
        return self._login("admin", self._password, "admin")

    def _login(self, user: str, password: str, project: str) -> str:
        domain = {"id": "default"}
        person = {"name": user, "domain": domain, "password": password}
        identity = {"methods": ["password"], "password": {"user": person}}
        scope = {"project": {"name": project, "domain": domain}}
        body = {"auth": {"identity": identity, "scope": scope}}
        return call("POST", f"{self.auth_url}/auth/tokens", body, "").headers["X-Subject-Token"]

    def _keystone(self, method: str, path: str, body: object, token: str) -> Any:
        answer = call(method, f"{self.auth_url}{path}", body, token)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body}"
        return answer.body

    def _configure(self) -> None:
        directory = self.directory
        (directory / "fernet").mkdir(mode=0o700)
        for number in ("0", "1"):
            (directory / "fernet" / number).write_bytes(_key())
        (directory / "keystone.conf").write_text(KEYSTONE.format(directory=directory))
        (directory / ".barbican").mkdir()  # the only place beside /etc that it looks at
        (directory / ".barbican" / "barbican.conf").write_text(
            BARBICAN.format(
                directory=directory,
                keystone=self.keystone.url,
                barbican=self.barbican.url,
                password=self._password,
                kek=_key().decode(),
            )
        )
        self._manage("db_sync")
        self._manage(
            "bootstrap",
            *("--bootstrap-password", self._password, "--bootstrap-region-id", "lab"),
            *("--bootstrap-public-url", self.auth_url, "--bootstrap-internal-url", self.auth_url),
        )

    def _manage(self, *arguments: str) -> None:
        command = [self._bin / "keystone-manage", "--config-file", self.directory / "keystone.conf"]
        done = subprocess.run(
            [*command, *arguments],
            env=lab_environment(self.directory),
            capture_output=True,
            timeout=START_LIMIT,
        )
        assert done.returncode == 0, done.stderr[-2000:]

    def _announce(self) -> None:
        """Put Barbican into the catalogue: without it access rules refuse everything."""
        admin = self._admin()
        service = {"service": {"type": "key-manager", "name": "barbican"}}
        made = self._keystone("POST", "/services", service, admin)["service"]["id"]
        place = {"service_id": made, "interface": "public", "region_id": "lab"}
        endpoint = {"endpoint": {**place, "url": self.barbican.url}}
        self._keystone("POST", "/endpoints", endpoint, admin)


def lab_environment(directory: Path) -> dict[str, str]:
    """Give the environment of both: their home is the lab."""
    return {
        "HOME": str(directory),
        "OS_KEYSTONE_CONFIG_DIR": str(directory),
        "PATH": os.environ["PATH"],
        "PYTHONWARNINGS": "ignore",
    }


def call(method: str, url: str, body: object, token: str) -> Answer:
    """Do one request in JSON; whatever the status is."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if token:
        headers["X-Auth-Token"] = token
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(request, timeout=60)
    except HTTPError as error:
        answer = error
    with answer:
        text = answer.read()
        return Answer(
            status=answer.status,
            headers=dict(answer.headers.items()),
            body=json.loads(text) if text else None,
        )


def _key() -> bytes:
    return base64.urlsafe_b64encode(secrets.token_bytes(32))


def _naive(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
