"""A small site on loopback that does the phone-home protocol with real keys, for the agent's tests.

Certificates, credential, quote checks, envelope and signatures are the product's own; what it
leaves out is every decision. `twist` lets a test make one wrong step on purpose.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID, uuid5

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from attest import transcript as hashes_of
from attest.certify import check_device_key
from attest.credential import RANDOM_BYTES, check_keys, make_challenge
from attest.quote import check_coverage, check_quote
from attest.transcript import Enrolment, SiteIdentity
from bootstrap.agent.signature import verify_pair
from bootstrap.phonehome import decode_evidence, decode_hello, decode_report, decode_trouble
from keys import ca, ssh_certificate
from keys.envelope import Binding, Boot, Randomness, answer_document, b64u, seal, secret_digest
from keys.secret import Secret

SITE_ID = "shop-0417"
SERVER_NAME = "appliance.shop-0417.example.net"
CANARY = "canary-9f1e"
OIDS = UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")


class Authority:
    """A site's root, its intermediates and the two leaves, made at any time."""

    def __init__(self, now: datetime, site_id: str = SITE_ID) -> None:
        issue = ca.Issue(serial=secrets.randbits(120), now=now)
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(5)]
        root_key, middle_key, self.server_key, self.answer_key, box_key = keys
        network = IPv4Network("127.0.0.0/8")
        self.root = ca.make_root(
            root_key, site_id=site_id, domain="example.net", networks=[network], issue=issue
        )
        top = ca.Issuer(certificate=self.root, key=root_key)

        def middle(key, kind):
            request = ca.make_request(key, site_id=site_id, kind=kind)
            made = ca.sign_intermediate(top, request, kind=kind, issue=issue)
            return ca.Issuer(certificate=made, key=key)

        self.appliance = middle(middle_key, ca.Kind.APPLIANCE)
        self.boxes = middle(box_key, ca.Kind.BOX)
        self.ssh_key = ec.generate_private_key(ec.SECP256R1())
        self.server = ca.issue_server(
            self.appliance,
            self.server_key.public_key(),
            names=[SERVER_NAME],
            addresses=[IPv4Address("127.0.0.1")],
            issue=issue,
        )
        self.answer = ca.issue_answer_leaf(
            self.appliance, self.answer_key.public_key(), site_id=site_id, issue=issue
        )
        self.issue = issue

    def write_anchor(self, directory: Path) -> Path:
        directory.mkdir(exist_ok=True)
        pem = self.root.public_bytes(Encoding.PEM).decode()
        texts = {"site-root.pem": pem, "site-id": SITE_ID, "server-name": SERVER_NAME}
        for name, text in (texts | {"release": "test"}).items():
            (directory / name).write_text(f"{text.strip()}\n")
        return directory


class Site:
    """Serves one authority; every request's path and body are kept in `seen`."""

    def __init__(
        self, directory: Path, authority: Authority, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.authority, self.decide = authority, "enrolled"
        self.address = (host, port)
        self.key = secrets.token_bytes(32)
        der = authority.root.public_bytes(Encoding.DER)
        self.identity = SiteIdentity(site_id=SITE_ID, root=hashlib.sha256(der).digest())
        self.seen: list[tuple[str, bytes]] = []
        self.answers: dict[str, tuple[bytes, bytes]] = {}
        self.sessions: dict[str, dict] = {}
        self.before: Callable[[str, int], str | int | None] = lambda path, count: None
        self.twist: Callable[[str, dict], None] = lambda step, things: None
        self.handoff: dict = {}
        self.server = self._serve(directory)

    @property
    def url(self) -> str:
        return f"https://{self.address[0]}:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def posts(self, ending: str) -> list[bytes]:
        return [body for path, body in self.seen if path.endswith(ending)]

    def _serve(self, directory: Path) -> ThreadingHTTPServer:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.seen.append((self.path, body))
                fault = site.before(self.path, len(site.posts(self.path.rpartition("/")[2])))
                status, answer = (
                    (fault, b"{}") if isinstance(fault, int) else site.handle(self.path, body)
                )
                if fault == "lose":
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *arguments) -> None:
                return

        server = ThreadingHTTPServer(self.address, Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chain = directory / "server.pem"
        key = self.authority.server_key.private_bytes(
            Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        certificates = ca.pem([self.authority.server, self.authority.appliance.certificate])
        chain.write_bytes(key + certificates.encode())
        context.load_cert_chain(chain)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def handle(self, path: str, body: bytes) -> tuple[int, bytes]:
        parts = path.strip("/").split("/")
        if path == "/v1/sessions":
            return 200, self._hello(body)
        if path == "/v1/trouble":
            decode_trouble(body)
            return 202, b"{}"
        if parts[2] not in self.sessions:
            return 404, b'{"v":1,"reason":"SESSION-UNKNOWN","sentence":"this site knows it not"}'
        if path in self.answers:
            same = self.answers[path][0] == body
            return (200, self.answers[path][1]) if same else (409, b"{}")
        step = {"evidence": self._evidence, "report": self._report}[parts[3]]
        answer = step(parts[2], body)
        self.answers[path] = (body, answer)
        return 200, answer

    def _hello(self, body: bytes) -> bytes:
        hello = decode_hello(body)
        keys = check_keys(hello.ek_public, hello.ak_public)
        h1 = hashes_of.hello_digest(body)
        made = hashes_of.make_session(
            self.key, self.identity, keys.ek.name(), keys.ak.name(), h1, 1
        )
        self.sessions[made.session.hex()] = {"made": made, "keys": keys, "hello": body}
        challenge = make_challenge(keys, made.secret, os.urandom(RANDOM_BYTES))
        fields = {
            "v": 1,
            "session": b64u(made.session),
            "server_nonce": b64u(made.server_nonce),
            "credential_blob": b64u(challenge.credential_blob),
            "encrypted_secret": b64u(challenge.encrypted_secret),
            "pcrs": list(range(16)),
            "seconds": 120,
        }
        self.twist("hello", fields)
        return json.dumps(fields).encode()

    def _evidence(self, session: str, body: bytes) -> bytes:
        known = self.sessions[session]
        keys, made = known["keys"], known["made"]
        sent = decode_evidence(body)
        assert sent.hello == known["hello"]
        enrolment = Enrolment(
            box_nonce=decode_hello(sent.hello).box_nonce,
            ek_name=keys.ek.name(),
            ak_name=keys.ak.name(),
            hello_digest=hashes_of.hello_digest(sent.hello),
            facts=sent.facts,
            ephemeral=sent.ephemeral,
            device_public=sent.device_public,
            ssh_host_key=sent.ssh_host_key,
        )
        purpose = decode_hello(sent.hello).purpose
        q = hashes_of.enrol_data(self.identity, made, enrolment, purpose)
        values = {bank: dict(enumerate(pcrs)) for bank, pcrs in sent.pcrs.items()}
        quotes = tuple(
            check_quote(
                attest=one.attest, signature=one.signature, ak=keys.ak, extra_data=q, values=values
            )
            for one in sent.quotes
        )
        covered = check_coverage(quotes, frozenset(values))
        device, _ = check_device_key(
            public=sent.device_public,
            attest=sent.device.attest,
            signature=sent.device.signature,
            ak=keys.ak,
            extra_data=hashes_of.device_data(q),
        )
        x = hashes_of.transcript(q, body)
        box = uuid5(OIDS, keys.ek.name().hex())
        known |= {"x": x, "box": box, "device": device, "facts": sent.facts, "pcrs": covered}
        known["ssh_host_key"] = sent.ssh_host_key
        if self.decide != "enrolled":
            payload = {"status": self.decide, "reason": "PCR-MISMATCH"}
            payload |= {"sentence": "PCR 8 differs", "retry_seconds": 7}
        else:
            payload = {"status": "enrolled", "bundle": self._bundle(known, sent, quotes[0].clock)}
        return self._sign("answer", known, payload)

    def ssh_identity(self, public: bytes) -> dict[str, str]:
        """Certify the host key that was quoted."""
        line = ssh_certificate.issue(
            self.authority.ssh_key,
            public=public,
            identity="doorstep:shop-0417:box:till",
            names=ssh_certificate.HostNames(hostname="till-1", fqdn="till-1.shop-0417.example.net"),
            serial=7,
            now=int(time.time()),
            not_after=int(time.time()) + 3600,
        )
        return {"ssh": line}

    def _bundle(self, known: dict, sent, clock) -> dict:
        now = int(time.time())
        chain = ca.issue_box(
            self.authority.boxes,
            known["device"].public_key(),
            site_id=SITE_ID,
            pseudonym="till",
            lifetime=timedelta(days=7),
            issue=self.authority.issue,
        )
        document = {
            "type": "application/vnd.doorstep.handoff.v1+json",
            "site": SITE_ID,
            "box": str(known["box"]),
            "session": b64u(known["made"].session),
            "issued": now,
            "expires": now + 600,
            "role": "pos",
            "hostname": "till-1",
            "fqdn": "till-1.shop-0417.example.net",
            "network": [],
            "identity": {
                "chain_pem": ca.pem([chain, self.authority.boxes.certificate]),
                **self.ssh_identity(known["ssh_host_key"]),
            },
            "trust": {
                "site_root_pem": ca.pem([self.authority.root]),
                "dns": {"zone": "shop-0417.example.net.", "ds": ["1 13 2 AB", "2 13 2 CD"]},
            },
            "nocloud": {
                "user_data": b64u(b"#cloud-config\n"),
                "meta_data": b64u(b"instance-id: 1\n"),
                "network_config": b64u(b"version: 2\n"),
            },
            "secrets": [
                {
                    "name": "pos-api-token",
                    "version": 1,
                    "expires": now,
                    "value": b64u(CANARY.encode()),
                }
            ],
            "withheld": [],
            "checks": ["signature"],
            "after": "power-off",
        } | self.handoff
        boot = {
            "reset_count": clock.reset_count,
            "restart_count": clock.restart_count,
            "clock_before": clock.clock + 600_000,
            "pcrs": dict(known["pcrs"]["sha256"]),
            "opened": known["pcrs"]["sha256"][15],
        }
        self.twist("boot", boot)
        bundle = seal(
            ek=known["keys"].ek,
            box_ephemeral=sent.ephemeral,
            boot=Boot(**boot),
            binding=Binding(
                box=known["box"],
                session=known["made"].session,
                transcript=known["x"],
                boot_set=bytes(32),
                expires=now + 600,
            ),
            plaintext=Secret(json.dumps(document).encode()),
            randomness=Randomness.cut(os.urandom(Randomness.SIZE)),
        )
        token = Secret(CANARY.encode())
        known["digest"] = secret_digest(bundle.content_key, "pos-api-token", token)
        known |= {"bundle": bundle.document(), "content_key": bundle.content_key}
        return known["bundle"]

    def _report(self, session: str, body: bytes) -> bytes:
        known = self.sessions[session]
        sent = decode_report(body)
        made = known["made"]
        message = hashes_of.report_message(SITE_ID, made.session, known["x"], sent.report)
        assert verify_pair(known["device"].public_key(), message, sent.signature)
        known["report"] = json.loads(sent.report)
        return self._sign("receipt", known, {"status": "ready", "withheld": []})

    def _sign(self, context: str, known: dict, payload: dict) -> bytes:
        session = known["made"].session
        things = {
            "context": context,
            "payload": payload
            | {
                "session": b64u(session),
                "box": str(known["box"]),
                "transcript": b64u(known["x"]),
            },
            "x": known["x"],
            "session": session,
            "key": self.authority.answer_key,
            "chain": [self.authority.answer, self.authority.appliance.certificate],
        }
        self.twist(context, things)
        data = json.dumps(things["payload"]).encode()
        digest = hashes_of.digest(
            f"doorstep/v1/{things['context']}",
            SITE_ID.encode(),
            things["session"],
            things["x"],
            data,
        )
        der = things["key"].sign(digest, ec.ECDSA(hashes.SHA256()))
        pair = b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(der))
        chain = [one.public_bytes(Encoding.DER) for one in things["chain"]]
        return answer_document(data, pair, chain).encode()


def long_ago() -> datetime:
    """Give a time whose certificates have all ended."""
    return datetime(2001, 1, 1, tzinfo=UTC)
