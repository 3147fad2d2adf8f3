"""The technician's page: what each box is doing, why one was refused, what to do about it.

Read-only. It asks control and nothing else, keeps nothing on disk, and works without JavaScript. No
secret and no configuration of a box ever reaches it, since control has none to give.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from flask import Flask, Response, render_template, request
from markupsafe import Markup, escape
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from bootstrap.cards import SERVICES, STAGE_WORDS, TRACK, age, full_sentence, harmless, phone_number
from bootstrap.io.watch import View, Watch, digest, first_ends
from bootstrap.lease_words import day
from bootstrap.next_steps import NEXT_STEP
from bootstrap.views import attempts, told_once
from keys.errors import KeysError
from keys.io.rpc import RpcUnavailableError

RELOAD_SECONDS = 10
"""How often the page loads itself again where there is no JavaScript, unless told not to."""
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_KEY = re.compile(r"[0-9a-f:-]{12,36}")


def create_app(control: Path) -> Flask:
    """Make the WSGI application that shows what the socket at `control` answers."""
    root = Path(__file__).resolve().parent.parent / "page"
    app = Flask(__name__, template_folder=str(root), static_folder=str(root / "static"))
    app.jinja_env.globals.update(
        age=lambda since: age(time.time() - since),
        iso=lambda at: datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
        stage_words=STAGE_WORDS,
        service_words=SERVICES,
        next_steps=NEXT_STEP,
        steps=len(TRACK),
        phone_number=phone_number,
        reload_seconds=RELOAD_SECONDS,
        digest=digest,
        day=day,
        first_ends=first_ends,
    )
    app.jinja_env.filters.update(sentence=full_sentence, with_code=_with_code, short=_short)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    _routes(app, Watch(control))
    app.after_request(_with_headers)
    return app


def _routes(app: Flask, watch: Watch) -> None:
    @app.get("/")
    def overview() -> str:
        return render_template("overview.html", **_state(watch.view()))

    @app.get("/cards")
    def cards() -> str:
        return render_template("cards.html", **_state(watch.view()))

    @app.get("/box/<key>")
    def box(key: str) -> tuple[str, int]:
        details, status = _details(watch, key)
        return render_template("box.html", **_state(watch.view()), **details), status

    @app.get("/box/<key>/details")
    def box_details(key: str) -> tuple[str, int]:
        details, status = _details(watch, key)
        return render_template("details.html", **_state(watch.view()), **details), status

    @app.get("/codes")
    def codes() -> str:
        return render_template("codes.html", **_state(watch.view()))

    @app.get("/events")
    def events() -> Response:
        return _events(watch, request.headers.get("Last-Event-ID", ""))

    @app.errorhandler(HTTPException)
    def failed(error: HTTPException) -> tuple[str, int]:
        return render_template("error.html", error=error, **_state(watch.view())), error.code or 500


def _events(watch: Watch, seen: str) -> Response:
    """Stream changes; 503 without a free place, upon which the page asks every few seconds."""
    if not watch.open_stream():
        return Response("all streams are taken\n", 503, {"Retry-After": "60"}, "text/plain")
    headers = {"X-Accel-Buffering": "no"}
    response = Response(watch.stream(seen), 200, headers, "text/event-stream")
    response.call_on_close(watch.close_stream)
    return response


def _with_headers(response: BaseResponse) -> BaseResponse:
    response.headers.update(HEADERS)
    is_static = request.path.startswith("/static/")
    response.headers["Cache-Control"] = "no-cache" if is_static else "no-store"
    return response


def _state(view: View) -> dict[str, Any]:
    """Lay out what every page shows; a silent control is one more silent service."""
    services = [dict(one) for one in view.services] or [{"name": "control", "ok": True}]
    if view.lost_since is not None:
        silent = {"name": "control", "ok": False, "since": view.lost_since, "sentence": None}
        services = [silent if one["name"] == "control" else one for one in services]
    return {
        "lost": view.lost_since is not None,
        "lost_since": view.lost_since,
        "as_of": view.as_of,
        "as_of_text": _clock(view.as_of, view.site),
        "cards": view.cards,
        "site": view.site,
        "services": services,
        "notices": view.notices,
        "autonomy": view.autonomy,
        "now": time.time(),
        "clock": lambda at: _clock(at, view.site),
        "reloads": request.args.get("reload") != "off",
    }


def _details(watch: Watch, key: str) -> tuple[dict[str, Any], int]:
    """Fetch one box; its card alone, as it was seen last, when control is silent."""
    nothing: dict[str, Any] = {"key": key, "box": None, "earlier": [], "story": []}
    if not _KEY.fullmatch(key):
        return nothing, 404
    try:
        found = watch.box(key)
    except RpcUnavailableError:
        last = next((card for card in watch.view().cards if card["key"] == key), None)
        if last is None:
            return nothing, 503
        return {**nothing, "box": {"card": last, "findings": [], "box": None}}, 200
    except KeysError:
        return nothing, 404
    parts = attempts(found["events"])
    return {
        "key": key,
        "box": found,
        "story": told_once(reversed(parts[-1])),
        "earlier": told_once(reversed([event for part in parts[:-1] for event in part])),
    }, 200


def _short(text: str) -> str:
    return harmless(text, 40)


def _with_code(text: str) -> Markup:
    """Set what stands between backticks as code; everything is escaped."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = (Markup("<code>{}</code>").format(part) for part in parts[1::2])
    return Markup("").join(chain.from_iterable(zip_longest(parts[::2], marked, fillvalue="")))


def _clock(at: float | None, site: Mapping[str, Any]) -> str:
    """Write a time of day in the site's zone, with the zone's name."""
    if at is None:
        return "never"
    try:
        zone: ZoneInfo | None = ZoneInfo(site["time_zone"])
    except (KeyError, TypeError, ValueError, ZoneInfoNotFoundError):
        zone = None
    local = datetime.fromtimestamp(at, zone or UTC)
    return f"{local:%H:%M:%S} {local.tzname()}"
