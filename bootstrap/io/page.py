"""The technician's page: what each box is doing, why one was refused, what to do about it.

Read-only. It asks control and nothing else, holds no state, and works without JavaScript. No
secret and no configuration of a box ever reaches it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flask import Flask, Response, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from bootstrap.cards import age
from keys.errors import KeysError
from keys.io.rpc import call

STREAM_SECONDS = 600.0
POLL_SECONDS = 1.0


def create_app(control: Path) -> Flask:
    """Make the WSGI application that shows what the socket at `control` answers."""
    root = Path(__file__).resolve().parent.parent / "page"
    app = Flask(__name__, template_folder=str(root), static_folder=str(root / "static"))
    app.jinja_env.globals["age"] = lambda since: age(time.time() - since)
    app.jinja_env.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:].rstrip(".")

    @app.get("/")
    def overview() -> str:
        return render_template("overview.html", **_state(control))

    @app.get("/cards")
    def cards() -> str:
        return render_template("cards.html", **_state(control))

    @app.get("/box/<key>")
    def box(key: str) -> tuple[str, int]:
        state = _ask(control, "box", {"box": key})
        return render_template("box.html", box=state, key=key), 200 if state else 404

    @app.get("/events")
    def events() -> Response:
        last = request.headers.get("Last-Event-ID", "")
        stream = _stream(control, int(last) if last.isdecimal() else None)
        return Response(stream, mimetype="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.after_request
    def headers(response: BaseResponse) -> BaseResponse:
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        )
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        if not request.path.startswith("/static/"):
            response.headers["Cache-Control"] = "no-store"
        return response

    return app


def _ask(control: Path, method: str, params: Mapping[str, Any] | None = None) -> Any:
    try:
        return call(control, method, params, timeout=5.0)
    except KeysError:
        return None


def _state(control: Path) -> dict[str, Any]:
    """Fetch what the page shows; `lost` when control does not answer."""
    boxes = _ask(control, "boxes")
    services = _ask(control, "services")
    return {
        "lost": boxes is None or services is None,
        "cards": (boxes or {}).get("cards", []),
        "site": (boxes or {}).get("site", {}),
        "services": (services or {}).get("services", []),
        "notices": (services or {}).get("notices", []),
        "now": time.time(),
    }


def _stream(control: Path, last: int | None) -> Iterator[str]:
    """Tell the browser that something changed, by event number; end after ten minutes."""
    ends = time.monotonic() + STREAM_SECONDS
    silent = False
    while time.monotonic() < ends:
        answer = _ask(control, "events", {"after": -1 if last is None else last, "limit": 200})
        if answer is None:
            if not silent:
                yield "event: lost\ndata: {}\n\n"
            silent = True
        elif silent or last is None or answer["last"] != last:
            last, silent = int(answer["last"]), False
            yield f"id: {last}\nevent: change\ndata: {json.dumps({'n': last})}\n\n"
        else:
            yield ": still here\n\n"
        time.sleep(POLL_SECONDS)
