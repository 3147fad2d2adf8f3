"""Documents that headquarters signs for sites: one format, one verifier, one table of kinds.

A file with its `.minisig` beside it (`keys.manifest`), whose trusted comment says after the context
for which site it is and which of its kind: `site=<id|*> counter=<n>`. `check_signed` is the one
maker of a `SignedInput`. It never reads a file and never says what a document does.
docs/signed-inputs.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256

from keys.errors import PeerError
from keys.manifest import MAX_FILE, TRUSTED, ManifestError, ManifestReason, PublicKey, verify

MIB = 1024 * 1024
MAX_SUBJECT = 200
_COUNTER = r"(?P<counter>[0-9]{1,18})"
_SITE = r"site=(?P<site>\S+)"
_STANDARD = rf"{_SITE} counter={_COUNTER}"


class SignedReason(Enum):
    """Why a document with a good signature was not taken; also the `expect` of the vectors."""

    UNSIGNED = "INPUT-UNSIGNED"
    TOO_LARGE = "INPUT-TOO-LARGE"
    COMMENT = "INPUT-COMMENT"
    OTHER_SITE = "INPUT-OTHER-SITE"
    OLDER = "INPUT-OLDER"
    CHANGED = "INPUT-CHANGED"


class SignedError(PeerError):
    """The document must not be used; `reason` says why, the sentence what to do."""

    def __init__(self, reason: SignedReason, sentence: str) -> None:
        """Keep the reason beside the sentence."""
        super().__init__(sentence)
        self.reason = reason


class Sites(Enum):
    """For which sites a document of a kind may be signed."""

    ONE = "one"
    ALL = "all"
    EITHER = "one or all"
    UNSAID = "the key is this site's own"


class Counted(Enum):
    """What the counter of a kind counts, and so where its floor is."""

    NOT = "nothing"
    SITE = "the documents of this kind"
    SUBJECT = "those about one subject"
    OWN = "versions, whose floor is in a table of its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of signed document.

    `name` is its row in the table of floors, `title` what people call it, `forms` the trusted
    comments that are accepted, the one that is written first; `max_bytes` limits the document.
    `named_in` is the key of the JSON document that names the subject, where the comment does not.
    `older` says which signatures of before are accepted.
    """

    name: str
    context: str
    title: str
    sites: Sites
    counted: Counted
    max_bytes: int
    changes: str
    forms: tuple[re.Pattern[str], ...]
    shown: str = "site=… counter=…"
    named_in: str | None = None
    older: str = ""


def _forms(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.ASCII) for pattern in patterns)


NOTE = Kind(
    name="delivery-note",
    context="doorstep/v1/delivery-note",
    title="delivery note",
    sites=Sites.ONE,
    counted=Counted.SITE,
    max_bytes=4 * MIB,
    changes="which boxes are expected, with which role and name",
    forms=_forms(_STANDARD),
)
FIRMWARE = Kind(
    name="firmware-baseline",
    context="doorstep/v1/firmware-baseline",
    title="firmware baseline",
    sites=Sites.ALL,
    counted=Counted.SITE,
    max_bytes=4 * MIB,
    changes="which firmware is known, so which boxes are not held for theirs",
    forms=_forms(_STANDARD, rf"firmware counter={_COUNTER}"),
    shown="site=* counter=…",
    older="`firmware counter=<n>`, which said no site",
)
POLICY = Kind(
    name="appraisal-policy",
    context="doorstep/v1/appraisal-policy",
    title="appraisal policy",
    sites=Sites.EITHER,
    counted=Counted.SITE,
    max_bytes=256 * 1024,
    changes="how the evidence of boxes is judged",
    forms=_forms(_STANDARD),
)
PLAN = Kind(
    name="site-plan",
    context="doorstep/v1/site-plan",
    title="site plan",
    sites=Sites.ONE,
    counted=Counted.SITE,
    max_bytes=4 * MIB,
    changes="site.toml and the templates",
    forms=_forms(_STANDARD),
)
APPROVAL = Kind(
    name="box-approval",
    context="doorstep/v1/box-approval",
    title="approval of a box",
    sites=Sites.ONE,
    counted=Counted.SUBJECT,
    max_bytes=16 * 1024,
    changes="one held box is let through, once",
    forms=_forms(rf"{_STANDARD} ek=(?P<subject>[0-9a-f]{{68,132}})"),
    shown="site=… counter=… ek=…",
)
BOOT_SET = Kind(
    name="boot-set",
    context="doorstep/v1/boot-set-manifest",
    title="boot set",
    sites=Sites.UNSAID,
    counted=Counted.SUBJECT,
    max_bytes=64 * 1024,
    changes="one more boot set is in the store; it is not published",
    forms=_forms(rf"version={_COUNTER} digest=(?P<digest>[0-9a-f]{{1,64}})"),
    shown="version=… digest=…",
    named_in="name",
)
REHEARSAL = Kind(
    name="rehearsal",
    context="doorstep/v1/rehearsal",
    title="record of a rehearsal",
    sites=Sites.UNSAID,
    counted=Counted.NOT,
    max_bytes=64 * 1024,
    changes="a boot set counts as rehearsed",
    forms=_forms(r".*"),
    shown="any text",
)
WRAPPED = Kind(
    name="wrapped-secret",
    context="doorstep/v1/wrapped-secret",
    title="wrapped secret",
    sites=Sites.ONE,
    counted=Counted.OWN,
    max_bytes=256 * 1024,
    changes="one secret of one box has a new version, or none any more",
    forms=_forms(
        rf"{_SITE} secret=(?P<secret>\S+) serial=(?P<serial>.+) version=(?P<version>[0-9]{{1,16}})"
    ),
    shown="site=… secret=… serial=… version=…",
)
SEED = Kind(
    name="seed",
    context="doorstep/v1/seed",
    title="seed",
    sites=Sites.ONE,
    counted=Counted.SITE,
    max_bytes=8 * MIB,
    changes="the secrets that it names have new versions, which begin now",
    forms=_forms(_STANDARD),
)
BACKUP_KEY = Kind(
    name="backup-key",
    context="doorstep/v1/backup-key",
    title="off-site key",
    sites=Sites.ONE,
    counted=Counted.SITE,
    max_bytes=4096,
    changes="who can open the backups of this site",
    forms=_forms(_STANDARD),
)
RESEALED = Kind(
    name="resealed-backup",
    context="doorstep/v1/resealed-backup",
    title="resealed backup",
    sites=Sites.ONE,
    counted=Counted.NOT,
    max_bytes=64 * 1024,
    changes="an appliance without a state has the one of before",
    forms=_forms(_STANDARD),
)
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *(NOTE, FIRMWARE, POLICY, PLAN, APPROVAL, BOOT_SET, REHEARSAL, WRAPPED),
        *(SEED, BACKUP_KEY, RESEALED),
    )
}
"""By name; a new kind is a row here and a handler in whoever uses it."""

_BY_CONTEXT = {kind.context: kind for kind in KINDS.values()}
_REMEDIES: Mapping[ManifestReason, str] = {
    ManifestReason.MALFORMED: "copy it again, whole, with its .minisig",
    ManifestReason.LEGACY: "let headquarters sign it again",
    ManifestReason.OTHER_KEY: "get it from the headquarters whose key is trust/root.pub",
    ManifestReason.WRONG: "copy it again, whole, with the .minisig that was made for it",
    ManifestReason.COMMENT: "copy its .minisig again; headquarters signed another comment",
    ManifestReason.CONTEXT: "let headquarters sign it as what it is",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The newest document that was taken; an older one, or another with its counter, is refused."""

    counter: int
    digest: bytes


Floors = Callable[[str, str], Floor | None]
"""Gives the floor of a kind (its name) and a subject (empty for a kind of the whole site)."""


def no_floors(kind: str, subject: str) -> Floor | None:
    """Know of no document before."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedInput:
    """A document whose signature, purpose, site and counter were checked.

    `counter` is None for a kind that has none; `subject` is what its counter counts for. `fields`
    is what else the signer said, by name. `key_id` names the key (8 bytes).
    """

    kind: Kind
    data: bytes
    signature: bytes
    site: str | None
    counter: int | None
    subject: str
    fields: Mapping[str, str]
    key_id: bytes

    @property
    def floor(self) -> Floor:
        """Give the floor that this document is from now on; ValueError for a kind without one."""
        if self.counter is None:
            raise ValueError(f"the {self.kind.title} has no counter")
        return Floor(counter=self.counter, digest=sha256(self.data).digest())

    @property
    def signer(self) -> str:
        """Name the key as stock minisign does."""
        return self.key_id[::-1].hex().upper()


def check_signed(
    kind: Kind,
    data: bytes,
    signature: bytes,
    *,
    public_key: bytes,
    site_id: str,
    floors: Floors = no_floors,
) -> SignedInput:
    """Check size, signature, purpose, site and counter of a document.

    `public_key` is the content of trust/root.pub. ManifestError when the signature is not for
    this, SignedError when it is and the document must not be used all the same.
    """
    if len(data) > kind.max_bytes:
        what = f"the {kind.title} is larger than {size_text(kind.max_bytes)}"
        raise SignedError(SignedReason.TOO_LARGE, f"{what}: ask headquarters for a smaller one")
    try:
        said = verify(public_key, data, signature, context=kind.context)
    except ManifestError as error:
        sentence = f"{error}: {_REMEDIES[error.reason]}"
        raise ManifestError(error.reason, sentence) from None
    fields = _fields(kind, said)
    site = fields.pop("site", None)
    _check_site(kind, site, site_id)
    counter = fields.pop("counter", None)
    found = SignedInput(
        kind=kind,
        data=data,
        signature=signature,
        site="*" if kind.sites is Sites.ALL else site,
        counter=None if counter is None else int(counter),
        subject=_subject(kind, data, fields.pop("subject", "")),
        fields=fields,
        key_id=PublicKey.decode(public_key).key_id,
    )
    if kind.counted in (Counted.SITE, Counted.SUBJECT):
        check_floor(found, floors(kind.name, found.subject))
    return found


def check_either(
    kind: Kind,
    data: bytes,
    signatures: Sequence[bytes],
    *,
    public_key: bytes,
    site_id: str,
    floors: Floors = no_floors,
) -> SignedInput:
    """Check a document with the signature that is its own among those that lie beside it.

    A power cut in an import leaves two: the one of before and that of the document to come. What
    is raised is about the first. SignedError UNSIGNED where there is none.
    """
    first: PeerError | None = None
    for signature in signatures:
        try:
            return check_signed(
                kind, data, signature, public_key=public_key, site_id=site_id, floors=floors
            )
        except (SignedError, ManifestError) as error:
            first = first or error
    if first is None:
        what = f"the {kind.title} has no signature beside it"
        raise SignedError(SignedReason.UNSIGNED, f"{what}: bring the file with its .minisig")
    raise first


def check_floor(found: SignedInput, floor: Floor | None) -> None:
    """Refuse what is older than the floor, and another document with the floor's counter."""
    own, title = found.floor, found.kind.title
    if floor is None or own.counter > floor.counter:
        return
    if own.counter < floor.counter:
        raise SignedError(
            SignedReason.OLDER,
            f"the {title} has counter {own.counter}, this site has seen {floor.counter}: "
            "put the newer one there, or let headquarters sign it again",
        )
    if own.digest != floor.digest:
        raise SignedError(
            SignedReason.CHANGED,
            f"another {title} with counter {own.counter} was seen before: "
            "let headquarters sign it with a new counter",
        )


def claimed_kind(signature: bytes) -> Kind | None:
    """Say as what a document claims to be signed; nothing is checked."""
    if len(signature) > MAX_FILE:
        return None
    for line in signature.splitlines():
        if line.startswith(TRUSTED):
            word = line[len(TRUSTED) :].split(b" ", 1)[0]
            return _BY_CONTEXT.get(word.decode("ascii", "replace"))
    return None


def standard_comment(site: str, counter: int, **further: str) -> str:
    """Write what a signer says beside the context."""
    words = [f"site={site}", f"counter={counter}", *(f"{k}={v}" for k, v in further.items())]
    return " ".join(words)


def size_text(size: int) -> str:
    """Write a limit in the largest unit that it is a whole number of."""
    for unit, name in ((MIB, "MiB"), (1024, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _fields(kind: Kind, said: str) -> dict[str, str]:
    for form in kind.forms:
        found = form.fullmatch(said)
        if found:
            return dict(found.groupdict())
    raise SignedError(
        SignedReason.COMMENT,
        f"the {kind.title} is signed for this site's use of it, but its trusted comment is not "
        f"`{kind.shown}`: let headquarters sign it again",
    )


def _check_site(kind: Kind, site: str | None, site_id: str) -> None:
    if site is None:
        return
    allowed = {
        Sites.ONE: {site_id},
        Sites.ALL: {"*"},
        Sites.EITHER: {site_id, "*"},
        Sites.UNSAID: set(),
    }[kind.sites]
    if site not in allowed:
        here = "it must be for all sites" if kind.sites is Sites.ALL else f"this is {site_id}"
        raise SignedError(
            SignedReason.OTHER_SITE,
            f"the {kind.title} is for site {site[:80]}, {here}: "
            "ask headquarters for the one of this site",
        )


def _subject(kind: Kind, data: bytes, said: str) -> str:
    """Name what the counter counts for, from the signed comment or the signed document."""
    if kind.named_in is None:
        return said
    try:
        name = json.loads(data)[kind.named_in]
    except (ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str) or not 0 < len(name) <= MAX_SUBJECT:
        raise SignedError(
            SignedReason.COMMENT,
            f"the {kind.title} is signed, but has no {kind.named_in}: let headquarters make it "
            "again",
        )
    return name
