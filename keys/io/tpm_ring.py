"""The cache's keys in the controller's TPM: made once, opened under a lease, dropped at its end.

Every condition is the TPM's own; what is asked here before is for a better sentence. A power cut at
any point leaves the epoch before or the one after, never both and never none. design.md, "Secrets".
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
)

from keys.cachekey import SHARE_SIZE, combine
from keys.envelope import b64u, bind, unb64u
from keys.errors import PeerError, SiteError
from keys.io.files import write_file
from keys.io.layout import Layout
from keys.io.owner import ESCROW_META, own, read_authority
from keys.io.ring import ClosedError
from keys.io.store import Store
from keys.io.tpm import Tpm
from keys.io.tpm_key import TpmKey
from keys.io.tpm_link import TpmGoneError, TpmRefusedError
from keys.io.tpm_made import Made, lease_reference
from keys.io.tpm_signing import TpmSigning
from keys.lease import Counters, Purpose, SignedLease, lease_policy
from keys.lease_request import QUOTED_PCRS, LeaseRequest, appliance_name, request_digest
from keys.policy import CommandCode, pcr_digest
from keys.secret import Secret
from keys.tpm_objects import (
    EK_TEMPLATE,
    Blob,
    Index,
    boot_policy,
    counter_policy,
    device_policy,
)

TPM_META, CLOCK_META = "tpm", "tpm-clock"
MAX_STEPS = 64
"""By how much one lease may move the lease counter."""
TPM_GONE = "TPM-GONE"
NO_LEASE = "this controller has no lease"
ENDED = "the lease was ended"
OTHER_SOFTWARE = "this controller runs other software than the lease is for"
RENEW = "Ask headquarters for one: doorstep lease request, lease issue, lease apply"
UNSURE = "the TPM did not say whether it ended what was revoked"
ROLLED_BACK = (
    "keys.db is older than the last revocation on this controller: it was restored from a copy. "
    "Put the newer one back, or set the cache up again and put its secrets anew"
)


class TpmRing:
    """Keys that the controller's TPM gives out under a lease."""

    def __init__(self, layout: Layout, store: Store, tcti: str, site_id: str) -> None:
        """Connect, and make everything in the TPM at the first start; SiteError otherwise."""
        self._store, self._site_id = store, site_id
        self._run = layout.run / "keys"
        self._keys: dict[str, Secret] = {}
        self._next: Secret | None = None
        self._boot: Secret | None = None
        self._lease: SignedLease | None = None
        self._seen: Counters | None = None
        self._why = NO_LEASE
        self.where = f"the TPM at {tcti}"
        stored = store.meta(TPM_META)
        if stored is None:
            self._tpm = Tpm(tcti)
            self._tpm.tidy()
            authority = read_authority(layout.site / "trust" / "lease.pub")
            self._made = self._make(authority)
        else:
            self._made = Made.read(stored)
            self._tpm = Tpm(tcti, storage_name=self._made.storage_name)
            self._tpm.tidy()
        self._signing = TpmSigning(self._tpm, self._made.authority_key, self.reference)
        self.maker = self._tpm.maker()
        self._device = self._tpm.unseal(self._made.device, self._tpm.anytime)
        own(
            store,
            self._tpm,
            device=self._device,
            authority=self._made.authority_key,
            site_id=site_id,
        )
        if stored is not None:
            self._restore_clock()
            self._collect(self.epoch)

    @property
    def lease(self) -> SignedLease | None:
        """The lease that the cache is open under."""
        return self._lease

    @property
    def storage_name(self) -> bytes:
        """The name of the storage key that everything is sealed under."""
        return self._made.storage_name

    @property
    def reference(self) -> bytes:
        """The policyRef that leases of this appliance have."""
        return self._made.reference(self._site_id)

    @property
    def epoch(self) -> int:
        """Read the epoch counter of the TPM."""
        return self._tpm.counter(Index.EPOCH)

    # set-up

    def _make(self, authority: ec.EllipticCurvePublicKey) -> Made:
        """Make storage key, counters and shares; what is sealed opens only under a lease."""
        if self._tpm.is_owned() or self._tpm.has_lockout():
            raise SiteError(
                "the TPM of this controller has an owner's password already: "
                "clear the TPM in the firmware setup"
            )
        storage_name = self._tpm.make_storage_key()
        for index in Index:
            self._tpm.define(index)
        shares = {name: Secret(os.urandom(SHARE_SIZE)) for name in ("lease", "device")}
        point = authority.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        ek = self._tpm.ek_area(EK_TEMPLATE)
        policy = lease_policy(authority, lease_reference(ek, self._site_id), CommandCode.UNSEAL)
        made = Made(
            storage_name=storage_name,
            ek=ek,
            authority=point,
            lease_share=self._tpm.seal(shares["lease"], policy),
            device=self._tpm.seal(shares["device"], device_policy()),
            first=self._tpm.counter(Index.LEASE),
        )
        with self._store.transaction():
            self._store.set_meta(TPM_META, made.document())
            epoch = self._tpm.counter(Index.EPOCH)
            share = self._new_share(epoch)
        # Until the first lease, this process alone has the key: what is put now is kept by it.
        self._keys["lease"] = shares["lease"]
        self._keys["site"] = combine(shares["lease"], share, site=self._site_id, epoch=epoch)
        return made

    def request(self, challenge: str, at: int) -> LeaseRequest:
        """Quote this controller for headquarters."""
        escrowed = self._store.meta(ESCROW_META) or b""
        counters = self.lease_counter(), self.epoch
        digest = request_digest(
            site=self._site_id,
            challenge=challenge,
            at=at,
            counters=counters,
            ek=self._made.ek,
            escrow=escrowed,
        )
        quoted = self._tpm.quote(QUOTED_PCRS, digest)
        return LeaseRequest(
            site=self._site_id,
            challenge=challenge,
            at=at,
            lease_counter=counters[0],
            epoch=counters[1],
            ek=self._made.ek,
            ak=quoted.public,
            attest=quoted.attest,
            signature=quoted.signature,
            escrow=escrowed,
            pcrs=self._tpm.pcrs(QUOTED_PCRS),
        )

    def counters(self) -> Counters:
        """Read the TPM's clock and counters."""
        return self._tpm.counters()

    def lease_counter(self) -> int:
        """Read the number of the lease that runs, or ran last."""
        return self._tpm.counter(Index.LEASE)

    # opening

    def open(self) -> None:
        """Open the cache with the newest lease that the TPM takes; ClosedError says why none."""
        self._wipe()
        self._why = NO_LEASE
        counters, held = self._tpm.counters(), self._tpm.counter(Index.LEASE)
        for signed in self._store_leases():
            terms = signed.lease.terms
            if terms.counter < held:
                self._why = ENDED if self._why is NO_LEASE else self._why
                continue
            if not self._is_due(signed):
                self._why = OTHER_SOFTWARE if terms.counter == held else self._why
                continue
            if (ended := terms.ended(counters)) is not None:
                self._why = f"the lease has ended: {ended}"
                break
            try:
                self._step_to(terms.counter)
                self._open_with(signed)
            except TpmRefusedError as error:
                self._why = str(error)
                break
            self._seen = counters
            return
        raise self._closed()

    def _open_with(self, signed: SignedLease) -> None:
        made, epoch = self._made, self.epoch
        slot = self._store.slot(epoch)
        if slot is None:
            raise ClosedError("CACHE-ROLLED-BACK", ROLLED_BACK)
        lease_share = self._tpm.unseal(
            made.lease_share, self._tpm.under_lease(signed, made.authority_key)
        )
        epoch_share = self._tpm.unseal(slot, self._tpm.at_counter(Index.EPOCH, epoch))
        self._keys["lease"] = lease_share
        self._keys["site"] = combine(lease_share, epoch_share, site=self._site_id, epoch=epoch)
        self._store.epoch = epoch
        self._lease = signed

    def _step_to(self, counter: int) -> None:
        """Count up to a lease's own number, which ends every lease before it."""
        for _ in range(counter - self._tpm.counter(Index.LEASE)):
            self._tpm.increment(Index.LEASE)

    def _is_due(self, signed: SignedLease) -> bool:
        """Tell a lease for the software that runs now from one for the next."""
        terms = signed.lease.terms
        return not terms.pcrs or pcr_digest(self._tpm.pcrs(sorted(terms.pcrs))) == terms.pcr_digest

    def _store_leases(self) -> list[SignedLease]:
        """Read what was taken, the newest first; a damaged row is none."""
        found = []
        for text in self._store.leases():
            with contextlib.suppress(PeerError):
                found.append(SignedLease.read(text))
        return found

    def _closed(self) -> ClosedError:
        code = "LEASE-MISSING" if self._why is NO_LEASE else "LEASE-ENDED"
        return ClosedError(code, f"{self._why}. {RENEW}")

    def _wipe(self) -> None:
        self._keys.clear()
        self._next, self._boot = None, None
        self._lease, self._seen = None, None

    def check(self) -> None:
        """Ask the TPM whether the lease still runs; ClosedError, and no key, when it does not."""
        try:
            self._check()
        except TpmGoneError as error:
            raise ClosedError(TPM_GONE, str(error)) from None

    def _check(self) -> None:
        if self._lease is None and self._why is UNSURE:
            self.open()
            return
        if self._lease is None:
            raise self._closed()
        counters, seen = self._tpm.counters(), self._seen
        if seen is None or (counters.reset_count, counters.restart_count) != (
            seen.reset_count,
            seen.restart_count,
        ):
            self.open()  # the TPM was reset under us: it decides again
            return
        ended = self._lease.lease.terms.ended(counters)
        if ended is None and self._tpm.counter(Index.LEASE) != self._lease.lease.terms.counter:
            ended = "it was ended"
        if ended is not None:
            self._wipe()
            self._why = f"the lease has ended: {ended}"
            raise self._closed()
        self._seen = counters

    def apply(self, text: str, now: float) -> SignedLease:
        """Take a lease and open the cache with it; PeerError when it is not for us."""
        signed = SignedLease.read(text)
        signed.check(self._made.authority_key, Index.LEASE.nv_name)
        lease = signed.lease
        if lease.site != self._site_id:
            raise PeerError(f"the lease is for the site {lease.site!r}")
        if lease.purpose is not Purpose.CACHE or lease.reference != self.reference:
            raise PeerError("the lease is for another appliance or another purpose")
        held = self._tpm.counter(Index.LEASE)
        # The one that runs may be given again where its row was damaged: the TPM takes it anyway.
        is_open = self._lease is not None
        is_used = lease.terms.counter == held and is_open and self._is_due(signed)
        # A first lease that did not count up would leave the authorities' keys as before it.
        if lease.terms.counter < max(held, self._made.first + 1) or is_used:
            raise PeerError("the lease was used before, or a newer one was: ask for a new one")
        if lease.terms.counter > held + MAX_STEPS:
            raise PeerError("the lease is too far ahead: ask for a new one")
        if (ended := lease.terms.ended(self._tpm.counters())) is not None:
            raise PeerError(f"the lease has ended already: {ended}")
        with self._store.transaction():
            self._store.add_lease(lease.terms.counter, signed.text(), now)
        if self._is_due(signed):
            self.open()
        return signed

    def end(self) -> None:
        """End every lease there is, at once: also one that waits, or that was issued and not taken.

        Headquarters numbers a lease one after what it was shown, so none reaches beyond that.
        """
        known = [signed.lease.terms.counter for signed in self._store_leases()]
        try:
            self._step_to(max([self._tpm.counter(Index.LEASE) + 1, *known]) + 1)
        except SiteError:
            self._wipe()
            self._why = UNSURE
            raise
        self._wipe()
        self._why = ENDED

    # keys

    def key(self, name: str) -> Secret:
        """Give `site`, `boot` or `device`; ClosedError when there is none now."""
        if name == "device":
            return self._device
        if name == "boot":
            return self._boot_key()
        found = self._keys.get("site")
        if found is None:
            raise self._closed()
        return found

    def next_site_key(self) -> Secret:
        """Draw the site key of the next epoch and store its share, in the caller's transaction."""
        lease_share = self._keys.get("lease")
        if lease_share is None:
            raise self._closed()
        epoch = self.epoch + 1
        share = self._new_share(epoch)
        self._next = combine(lease_share, share, site=self._site_id, epoch=epoch)
        return self._next

    def _new_share(self, epoch: int) -> Secret:
        share = Secret(os.urandom(SHARE_SIZE))
        policy = counter_policy(Index.EPOCH.nv_name, epoch)
        self._store.put_slot(epoch, self._tpm.seal(share, policy))
        return share

    def advance(self) -> None:
        """Count the epoch up: from here the TPM opens no share of before."""
        if self._next is None:
            raise RuntimeError("no next epoch was drawn")
        try:
            self._tpm.increment(Index.EPOCH)
            epoch = self.epoch
        except SiteError:
            # It may have counted all the same: what is written now could be of an epoch that ended.
            self._wipe()
            self._why = UNSURE
            raise
        self._keys["site"], self._next = self._next, None
        self._store.epoch = epoch
        self._collect(epoch)

    def _collect(self, epoch: int) -> None:
        """Forget what another epoch holds: an effect that was not finished, or one of before."""
        if self._store.slot(epoch) is None:
            raise SiteError(ROLLED_BACK)
        with self._store.transaction():
            self._store.keep_epoch(epoch)

    def _boot_key(self) -> Secret:
        """Open what this boot has, or make it: it opens in no other."""
        if self._boot is not None:
            return self._boot
        path, counters = self._run / "boot.sealed", self._tpm.counters()
        boot = f"{counters.reset_count}.{counters.restart_count}"
        if path.exists():
            blob, made_in = _read_blob(path)
            if made_in == boot:  # a refusal now is no other boot: never draw over it
                self._boot = self._tpm.unseal(blob, self._tpm.in_boot(counters))
                return self._boot
        value = Secret(os.urandom(SHARE_SIZE))
        blob = self._tpm.seal(value, boot_policy(counters))
        content = {"public": b64u(blob.public), "private": b64u(blob.private), "boot": boot}
        write_file(path, json.dumps(content).encode(), 0o600)
        self._boot = value
        return value

    # signing keys

    @property
    def appliance(self) -> str:
        """The fingerprint of this appliance, as headquarters knows it from its requests."""
        return appliance_name(self._site_id, self._made.ek, self._tpm.ak_area())

    def make_signing_key(self) -> bytes:
        """Make a key in the TPM that signs under a lease, or before the first one was taken."""
        is_first = self.lease_counter() == self._made.first
        return self._signing.make(self._made.first if is_first else None)

    def signing_key(self, stored: bytes) -> TpmKey:
        """Give such a key; each of its signatures asks the TPM."""
        return TpmKey.read(stored, self._sign)

    def prove(self, stored: bytes, kind: str) -> bytes:
        """Let the TPM vouch for such a key, for a request of one kind."""
        key, ek = self.signing_key(stored), self._made.ek
        return self._signing.prove(key, site=self._site_id, kind=kind, ek=ek).encode()

    def _sign(self, blob: Blob, unmoved: int | None, digest: bytes) -> tuple[int, int]:
        try:
            if self._lease is None and (unmoved is None or self.lease_counter() != unmoved):
                raise self._closed()
            return self._signing.sign(blob, unmoved, digest, self._lease)
        except TpmGoneError as error:
            raise ClosedError(TPM_GONE, str(error)) from None
        except TpmRefusedError as error:
            raise ClosedError("LEASE-ENDED", f"{error}. {RENEW}") from None

    # audit and time

    def audit_value(self) -> bytes:
        """Read what the audit is anchored to."""
        return self._tpm.read_nv(Index.AUDIT)

    def extend_audit(self, head: bytes) -> None:
        """Anchor the head of the audit."""
        self._tpm.extend(Index.AUDIT, head)

    def keep_time(self) -> None:
        """Store how far the TPM's clock is, in the caller's transaction."""
        clock = struct.pack(">Q", self._tpm.counters().clock)
        self._store.set_meta(CLOCK_META, clock + bind("doorstep/v1/tpm-clock", clock))

    def _restore_clock(self) -> None:
        """Set the clock forward to where it was seen: a power cut lets it fall back."""
        stored = self._store.meta(CLOCK_META)
        if stored is None or stored[8:] != bind("doorstep/v1/tpm-clock", stored[:8]):
            return  # no clock goes back: one bit that fell over would end every lease to come
        (seen,) = struct.unpack(">Q", stored[:8])
        if self._tpm.counters().clock >= seen:
            return
        try:
            self._tpm.advance_clock(seen)
        except SiteError:
            if self._tpm.counters().clock < seen:  # else it got there by itself meanwhile
                raise

    def close(self) -> None:
        """Drop the keys and let go of the TPM."""
        self._wipe()
        self._tpm.close()


def rehearsal_socket(layout: Layout) -> Path:
    """Say where a rehearsal has the TPM of its controller."""
    return layout.run / "tpm" / "socket"


def _read_blob(path: Path) -> tuple[Blob, str]:
    """Read a sealed key, and of which boot it is."""
    try:
        found = json.loads(path.read_bytes())
        blob = Blob(public=unb64u(found["public"]), private=unb64u(found["private"]))
        return blob, str(found["boot"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SiteError(f"{path} is damaged: remove it, secrets of tier boot are lost") from None
