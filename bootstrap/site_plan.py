"""A site plan: the site file and its templates as headquarters signs them, in one document.

A template is never changed in place: its name in a plan ends with a digest of its content, so that
new templates can lie beside those in force, and the site file's renaming is the one moment of the
change. Pure. docs/signed-inputs.md, "Site plans".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from bootstrap.errors import PeerError, SiteError
from bootstrap.site import SITE_FILE, Site, decode_site
from keys.signed import PLAN

TYPE = "doorstep/site-plan/v1"
PLAN_FILE = "plan.json"
_TEMPLATE = re.compile(r"templates/[A-Za-z0-9][A-Za-z0-9._-]{0,120}", re.ASCII)
_MARK = re.compile(r"\.[0-9a-f]{16}(?=(\.[a-z0-9]+)*\Z)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePlan:
    """What a plan holds: the site file's text, and each template's by its name."""

    site_text: str
    templates: Mapping[str, str]

    @property
    def site(self) -> Site:
        """The settings; SiteFileError with all that is wrong in their form."""
        return decode_site(self.site_text.encode(), f"{PLAN_FILE}: {SITE_FILE}")

    def encode(self) -> bytes:
        """Write the document that headquarters signs."""
        document = {"type": TYPE, "site.toml": self.site_text, "templates": dict(self.templates)}
        return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> SitePlan:
        """Read what `encode` wrote, to the last byte; PeerError otherwise."""
        if len(data) > PLAN.max_bytes:
            raise PeerError("the site plan is larger than 4 MiB: make it smaller")
        try:
            document = json.loads(data)
            templates = document["templates"]
            if set(document) != {"type", "site.toml", "templates"} or document["type"] != TYPE:
                raise ValueError("another document")  # noqa: TRY301 - one way out
            found = cls(
                site_text=_text(document["site.toml"]),
                templates={name: _text(text) for name, text in templates.items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise PeerError("this is no site plan, or it is damaged: copy it again") from None
        if found.encode() != data:
            raise PeerError("the site plan is not written as plans are: make it again")
        found._check_names()
        return found

    def _check_names(self) -> None:
        for name, text in self.templates.items():
            if not _TEMPLATE.fullmatch(name) or name != marked(name, text):
                raise PeerError(
                    f"the site plan names a template {name[:80]!r}, which is not of its content: "
                    "make it again with `doorstep sign`"
                )
        wanted = {role.config for role in self.site.roles}
        for name in sorted(wanted ^ set(self.templates)):
            what = "lacks" if name in wanted else "has, and no role wants,"
            raise PeerError(f"the site plan {what} the template {name}: make it again")


def make_plan(site_text: str, templates: Mapping[str, str]) -> SitePlan:
    """Make a plan of a site file and the templates that its roles name.

    SiteError when the text does not name each template as `config = "…"`.
    """
    named = {name: marked(name, text) for name, text in templates.items()}
    for name, new in named.items():
        site_text = site_text.replace(f'"{name}"', f'"{new}"')
    made = SitePlan(
        site_text=site_text, templates={named[name]: text for name, text in templates.items()}
    )
    if {role.config for role in made.site.roles} != set(made.templates):
        raise SiteError(
            f'{SITE_FILE}: write each template as config = "templates/…": a plan names it anew'
        )
    return made


def marked(name: str, text: str) -> str:
    """Name a template by its content: 16 hexadecimal digits before its ending."""
    plain = _MARK.sub("", name)
    stem, dot, ending = plain.rpartition("/")[2].partition(".")
    folder = plain[: len(plain) - len(stem + dot + ending)]
    return f"{folder}{stem}.{sha256(text.encode()).hexdigest()[:16]}{dot}{ending}"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected")
    value.encode()  # what JSON can say and UTF-8 cannot is a ValueError
    return value
