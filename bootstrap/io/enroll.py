"""The phone-home front: an untrusted courier between boxes and control.

It reads nothing of what it carries but sizes and media types, holds no state and no key, and
can ask control for four things only. nginx terminates TLS in front of it and names the peer's
address. Specification: docs/phone-home-v1.md.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

from flask import Flask, Response, request

from keys.io.rpc import RpcError, RpcUnavailableError, call

MEDIA_TYPE = "application/vnd.doorstep.phone-home.v1+json"
ADDRESS_HEADER = "X-Doorstep-Address"
LIMITS = {"session": 64 * 1024, "evidence": 6 * 1024 * 1024, "report": 64 * 1024, "trouble": 65536}
_SESSION = re.compile(r"[0-9a-f]{32}\Z")


def create_app(control: Path) -> Flask:
    """Make the WSGI application that carries bodies to the socket at `control`."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max(LIMITS.values())

    @app.post("/v1/sessions")
    def session() -> Response:
        return _carry(control, "session", None)

    @app.post("/v1/sessions/<text>/evidence")
    def evidence(text: str) -> Response:
        return _carry(control, "evidence", text)

    @app.post("/v1/sessions/<text>/report")
    def report(text: str) -> Response:
        return _carry(control, "report", text)

    @app.post("/v1/trouble")
    def trouble() -> Response:
        return _carry(control, "trouble", None)

    @app.errorhandler(404)
    @app.errorhandler(405)
    def unknown(_: Exception) -> Response:
        return _error(404, "MALFORMED", "this site has no such resource")

    @app.errorhandler(413)
    def large(_: Exception) -> Response:
        return _error(413, "TOO-LARGE", "the body is larger than the protocol allows")

    return app


def _carry(control: Path, method: str, session: str | None) -> Response:
    if request.mimetype != MEDIA_TYPE:
        return _error(415, "MALFORMED", f"the media type must be {MEDIA_TYPE}")
    if session is not None and not _SESSION.match(session):
        return _error(404, "SESSION-UNKNOWN", "this site knows no such session")
    body = request.get_data(cache=False)
    if len(body) > LIMITS[method]:
        return _error(413, "TOO-LARGE", "the body is larger than the protocol allows")
    params = {
        "address": request.headers.get(ADDRESS_HEADER, ""),
        "body": base64.urlsafe_b64encode(body).rstrip(b"=").decode(),
        **({"session": session} if session is not None else {}),
    }
    try:
        answer = call(control, method, params, timeout=30.0)
    except RpcUnavailableError:
        return _error(503, "SITE-NOT-READY", "the site is starting; try again", retry=2)
    except RpcError as error:
        return _error(503, "SITE-NOT-READY", f"the site cannot answer now ({error.code})", retry=5)
    text = answer["body"]
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    response = Response(payload, answer["status"], mimetype=MEDIA_TYPE)
    if answer["status"] in (429, 503):
        response.headers["Retry-After"] = "2"
    return response


def _error(status: int, reason: str, sentence: str, retry: int | None = None) -> Response:
    payload = json.dumps({"v": 1, "reason": reason, "sentence": sentence}, separators=(",", ":"))
    response = Response(payload, status, mimetype=MEDIA_TYPE)
    if retry is not None:
        response.headers["Retry-After"] = str(retry)
    return response
