"""Gathers for control what a site's ends are known from; `bootstrap.autonomy` makes sense of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography import x509

from bootstrap.autonomy import Known, first, horizons, sentence
from bootstrap.enrolment import Stage
from bootstrap.io.references import References
from bootstrap.rows import BoxRow
from bootstrap.settings import Settings

NO_END = 253_402_300_799
"""How a certificate says that it has no end (RFC 5280, 4.1.2.5)."""
_GONE = (Stage.REVOKED, Stage.REPLACED)


def outlook(
    settings: Settings,
    references: References,
    boxes: Callable[[], Sequence[BoxRow]],
    statuses: Mapping[str, Mapping[str, Any] | None],
    now: float,
    *,
    whole: bool,
) -> Mapping[str, Any]:
    """Say until when this site runs on its own: the first ends, or all of them with `whole`.

    `statuses` by service, None for one that is silent.
    """
    root = x509.load_pem_x509_certificate(settings.root_pem)
    found = horizons(
        Known(
            keys=statuses.get("keys"),
            sync=statuses.get("sync"),
            root_ends=root.not_valid_after_utc.timestamp(),
            boxes=[
                (one.hostname or one.box, one.certificate_until)
                for one in boxes()
                if one.certificate_until is not None and one.stage not in _GONE
            ],
            sets=[
                (
                    f"{one.manifest.name} {one.manifest.version}",
                    one.published.state.value,
                    one.published.until,
                )
                for one in references.manifests
            ],
            lists=[(one.title, one.next_update) for one in settings.anchors.crls],
            makers=[
                (one.title, None if one.not_after >= NO_END else one.not_after)
                for one in settings.anchors.certificates
            ],
            note=None if settings.note is None else settings.note.floor.counter,
        ),
        now,
    )
    answer: dict[str, Any] = {
        "sentence": sentence(found, now),
        "first": [one.document() for one in first(found)],
    }
    return answer | {"all": [one.document() for one in found]} if whole else answer
