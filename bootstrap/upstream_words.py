"""What an operator is told of upstreams: when each answered last, what is wrong, when a login ends.

Pure: what sync knows and the time go in, sentences come out. It knows no value and no login.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bootstrap.lease_desk import span
from bootstrap.lease_words import day
from bootstrap.renewal import Line, Row

DAY = 86_400
LOGIN_AHEAD = 7 * DAY
"""A login that ends within this is told of: so long may a site be without a line."""
OFFLINE_AHEAD = 30 * DAY
"""The same while its upstream does not answer: nobody knows when the line is back."""
SILENT_AFTER = 900
"""An upstream that flaps for a quarter of an hour is nobody's business."""
MAX_SECRETS = 5
NEW_LOGIN = "make a new one there and say `doorstep upstream login {name} < FILE`"


def document(line: Line, rows: Sequence[Row], due: int, now: float) -> dict[str, Any]:
    """Give what is known of one upstream, for the socket and --json; times in unix seconds."""
    paused = line.since + line.wait if line.is_paused(int(now * 1000)) else None
    return {
        "name": line.name,
        "login": line.login,
        "login_ends": line.login_ends,
        "is_login_refused": line.is_login_refused,
        "success": _seconds(line.success),
        "trouble": line.trouble,
        "trouble_since": _seconds(line.trouble_since),
        "failures": line.failures,
        "paused_until": paused and paused / 1000,
        "secrets": len(rows),
        "due": due,
        "refused": [
            {"name": row.name, "sentence": row.sentence} for row in rows if row.sentence is not None
        ],
    }


def sentences(upstreams: Iterable[dict[str, Any]], now: float) -> list[str]:
    """Say what a person should do something about."""
    return [text for one in upstreams for text in _of(one, now)]


def _of(one: dict[str, Any], now: float) -> Iterator[str]:
    name = one["name"]
    again = NEW_LOGIN.format(name=name)
    if one["login"] is None and one["secrets"]:
        yield f"upstream {name} has no login, and no secret of it is fetched: {again}"
    elif one["is_login_refused"]:
        yield f"upstream {name} refuses the login of this site: {again}"
    elif _is_silent(one, now):
        since = span(now - one["trouble_since"])
        yield f"no answer for {since}: {one['trouble']}; what is here is kept until its own end"
    yield from _of_login(one, now, again)
    refused = one["refused"]
    yield from (f"secret {row['name']}: {row['sentence']}" for row in refused[:MAX_SECRETS])
    if len(refused) > MAX_SECRETS:
        yield f"upstream {name}: {len(refused) - MAX_SECRETS} more secrets are not renewed"


def _is_silent(one: dict[str, Any], now: float) -> bool:
    return one["trouble"] is not None and now - one["trouble_since"] >= SILENT_AFTER


def _of_login(one: dict[str, Any], now: float, again: str) -> Iterator[str]:
    ends, name = one["login_ends"], one["name"]
    if ends is None or one["login"] is None:
        return
    if ends <= now:
        yield f"the login of upstream {name} ended on {day(ends)}: {again}"
    elif _is_silent(one, now) and ends - now <= OFFLINE_AHEAD:
        yield (
            f"the login of upstream {name} ends on {day(ends)}, in {span(ends - now)}, and there "
            f"is no line: if that is not back before, bring a new one by hand: {again}"
        )
    elif ends - now <= LOGIN_AHEAD:
        yield f"the login of upstream {name} ends on {day(ends)}, in {span(ends - now)}: {again}"


def _seconds(milliseconds: int) -> float | None:
    return milliseconds / 1000 if milliseconds else None
