"""What the running site takes itself: leases, certificates, seeds, wrapped secrets, approvals.

Nothing of it becomes a file here. keys checks each once more and says what it changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256

from bootstrap.enrolment import box_id
from bootstrap.errors import PeerError
from bootstrap.importing import SIGNED, Sort, State, Verdict
from bootstrap.io import site_dir
from bootstrap.io.import_desk import Desk, Handler, Item, verdict
from bootstrap.lease_words import day
from keys import ca, crl
from keys.approval import SignedApproval
from keys.envelope import b64u
from keys.errors import KeysError
from keys.errors import PeerError as KeysPeerError
from keys.io.rpc import RpcError
from keys.lease import SignedLease
from keys.signed import SignedInput, check_either, no_floors
from keys.wrap import WrappedSecret

MAX_PEM = 65536
ZONE_KEY = "zone-ksk-"
"""How the keys begin that boxes believe names by."""


class Leases:
    """Leases of the cache, as text."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Read it; whether the TPM takes it shows when it is taken."""
        lease = SignedLease.read(item.data.decode("ascii", "replace")).lease
        site = desk.site.site.id
        if lease.site != site:
            raise PeerError(
                f"the lease is for site {lease.site}, this is {site}: ask for one of this site"
            )
        shown = desk.ask("keys", "lease_show", {})
        running = (shown["lease"] or {}).get("counter")
        terms = lease.terms
        return Verdict(
            file=item.shown,
            sort=item.sort,
            state=State.NEW,
            site=lease.site,
            counter=terms.counter,
            before=running,
            changes=(
                f"issued {day(lease.issued)}, meant until {day(lease.ends)}",
                "its signature is checked by keys and the TPM when it is taken",
            ),
        )

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Let keys take it."""
        answer = desk.ask("keys", "lease_apply", {"lease": item.data.decode("ascii", "replace")})
        if answer["open"]:
            return ("the cache is open",)
        return ("it waits for other software, and opens the cache when that runs",)


class Intermediates:
    """Certificates and the list of revoked ones that the site's offline root signed."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Say which it is; PeerError when another root signed it."""
        root = ca.load_certificate(self._root(desk))
        if _is_list(item.data):
            found = crl.load(item.data.decode("ascii", "replace"))
            if found.issuer != root.subject or not found.is_signature_valid(root.public_key()):  # type: ignore[arg-type]
                raise PeerError("another root signed this list: ask headquarters for this site's")
            changes = f"{len(found)} certificates of this site's root are revoked from then on"
        else:
            certificate = ca.load_certificate(item.data)
            if certificate == root:
                raise PeerError("it is the site's root, which is here already: leave it away")
            kind = ca.kind_of(certificate)
            if not ca.is_issued_by(certificate, root):
                raise PeerError(
                    f"the root of site {ca.site_of(certificate)} signed it, or another one, not "
                    "trust/root.pem: ask headquarters for the one of this appliance"
                )
            end = certificate.not_valid_after_utc.timestamp()
            changes = f"the {kind.value} CA of this appliance has this one, until {day(end)}"
        signer = f"the site's root {root.fingerprint(SHA256()).hex()[:16]}"
        return Verdict(
            file=item.shown,
            sort=item.sort,
            state=State.NEW,
            signer=signer,
            site=ca.site_of(root),
            changes=(changes,),
        )

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Let keys install it."""
        text = item.data.decode("ascii", "replace")
        if _is_list(item.data):
            desk.ask("keys", "ca_install", {"root_crl_pem": text})
        else:
            kind = ca.kind_of(ca.load_certificate(item.data))
            desk.ask("keys", "ca_install", {f"{kind.value}_pem": text})
        return ()

    def _root(self, desk: Desk) -> bytes:
        found = desk.disk.read(desk.directory / site_dir.ROOT_PEM, MAX_PEM)
        if found is None:
            raise PeerError("trust/root.pem is missing: put it back")
        return found


class Seeds:
    """Secrets by stick, encrypted to this appliance."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Ask keys, which alone can open it."""
        found, before = desk.check(item)
        if before == found.floor:
            return verdict(item, found, before, (), same=True)
        looked = desk.ask("keys", "seed_take", {**_carried(found), "look": True})
        changes = [
            f"+ {one['name']} version {one['version']}, until {day(one['expires'])}"
            for one in looked["secrets"]
        ]
        changes += [f"~ the key {name} is that of before" for name in looked["keys"]]
        changes += [f"left out: {one['name']}: {one['reason']}" for one in looked["refused"]]
        return verdict(item, found, before, tuple(changes))

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Let keys take it."""
        found, _ = desk.check(item)
        taken = desk.ask("keys", "seed_take", _carried(found))
        has_zone = any(name.startswith(ZONE_KEY) for name in taken["keys"])
        return desk.sign_zones() if has_zone else ()


class Wrapped:
    """Secrets of tier `box`, each for one box."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Check it and ask keys what it changes."""
        found = self._check(desk, item)
        WrappedSecret.decode(found.data)
        looked = desk.ask("keys", "secret_import", {**_carried(found), "look": True})
        about = f"{looked['name']}, version {looked['version']}, for the box {looked['serial']}"
        changes = [
            f"- {about} and all before: it gets none any more"
            if looked["revokes"]
            else f"+ {about}, may be given until {day(looked['expires'])}"
        ]
        if not looked["on_note"]:
            changes.append("the delivery note that was taken names no such serial")
        same = looked["before"] == looked["version"]
        return Verdict(
            file=item.shown,
            sort=item.sort,
            state=State.SAME if same else State.NEW,
            signer=found.signer,
            site=found.site,
            counter=looked["version"],
            before=looked["before"],
            changes=() if same else tuple(changes),
        )

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Let keys take it."""
        desk.ask("keys", "secret_import", _carried(self._check(desk, item)))
        return ()

    def _check(self, desk: Desk, item: Item) -> SignedInput:
        return check_either(
            SIGNED[item.sort],
            item.data,
            item.signatures,
            public_key=desk.public_key,
            site_id=desk.site.site.id,
            floors=no_floors,
        )


class Approvals:
    """A held box that headquarters lets through: keys is told first, then control."""

    def look(self, desk: Desk, item: Item) -> Verdict:
        """Check it, and that the box is held for exactly this, now."""
        found, before = desk.check(item)
        one = SignedApproval.decode(found.data)
        looked = desk.ask("keys", "input_take", {**_of_kind(found), "look": True})
        if not looked["new"] and not looked["waits"]:
            return verdict(item, found, before, (), same=True)
        card = self._held(desk, one)
        changes = [
            f"{card} is let through once, as {one.role}",
            f"although: {', '.join(sorted(one.reasons))}",
            f"taken until {day(one.until)}, it waits a day for the box",
        ]
        if one.claim:
            changes.append(f"the technician said: {one.claim}")
        return verdict(item, found, before, tuple(changes))

    def take(self, desk: Desk, item: Item) -> tuple[str, ...]:
        """Let keys and control take it; keys takes it back when control refuses."""
        found, _ = desk.check(item)
        one = SignedApproval.decode(found.data)
        self._held(desk, one)
        desk.taken(found)
        seen = {"reasons": sorted(one.reasons), "measurements": b64u(one.measurements)}
        box = str(box_id(one.ek_name))
        offered = desk.ask("control", "box", {"box": box})["approval"] or {}
        if set(offered.get("reasons", ())) == one.reasons:
            seen["reasons"] = offered["reasons"]  # in control's own order
        try:
            desk.ask(
                "control", "approve", {"box": box, "role": one.role, "claim": one.claim, **seen}
            )
        except RpcError:
            desk.ask("keys", "disallow", {"ek_name": b64u(one.ek_name)})
            raise
        return ()

    def _held(self, desk: Desk, one: SignedApproval) -> str:
        """Check that control offers exactly this; gives the title of the box."""
        box = str(box_id(one.ek_name))
        answer = desk.ask("control", "box", {"box": box})
        offered = answer["approval"] or {"problem": f"it is {answer['card']['stage']}"}
        if "problem" in offered:
            raise PeerError(f"the box {box} is not to be approved now: {offered['problem']}")
        if set(offered["reasons"]) != one.reasons:
            held = ", ".join(offered["reasons"])
            raise PeerError(
                f"the box {box} is held for {held}, the approval says other reasons: "
                "ask headquarters for one of these"
            )
        told = (offered["ek_name"], offered["measurements"], offered["sealed"])
        if told != (b64u(one.ek_name), b64u(one.measurements), b64u(one.sealed)):
            raise PeerError(
                f"the box {box} has measured something else since: ask headquarters again, with "
                "what `doorstep box show` says now"
            )
        return str(answer["card"]["title"])


def _carried(found: SignedInput) -> dict[str, Any]:
    return {"file": b64u(found.data), "sig": b64u(found.signature)}


def _of_kind(found: SignedInput) -> Mapping[str, Any]:
    return {"kind": found.kind.name, **_carried(found)}


def _is_list(data: bytes) -> bool:
    return b"-----BEGIN X509 CRL-----" in data


def is_of_a_site(data: bytes, root: bytes | None) -> bool:
    """Tell whether it is what a site's offline root signs; `root` is this site's, as PEM."""
    with contextlib.suppress(KeysPeerError, KeysError):
        if _is_list(data):
            issuer = crl.load(data.decode("ascii", "replace")).issuer
            return root is not None and issuer == ca.load_certificate(root).subject
        ca.site_of(ca.load_certificate(data))
        return True
    return False


ANSWERS: dict[Sort, Handler] = {
    Sort.LEASE: Leases(),
    Sort.INTERMEDIATE: Intermediates(),
    Sort.SEED: Seeds(),
    Sort.WRAPPED: Wrapped(),
    Sort.APPROVAL: Approvals(),
}
