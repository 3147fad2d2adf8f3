"""The operator's files as control runs them: read at start, read again when one of them changes.

A change that does not hold leaves the old settings in force, with a sentence; at start it is an
error.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attest.anchors import Anchors
from attest.baseline import Baseline
from attest.errors import AttestError
from attest.firmwarefile import verify_baseline
from attest.io.trust import load_platform_trust, load_trust
from attest.policy import Policy
from attest.transcript import SiteIdentity
from bootstrap.check import FIRMWARE, POLICY
from bootstrap.errors import SiteError
from bootstrap.io.input_floors import InputFloors
from bootstrap.settings import Settings, basis_of
from bootstrap.site import SITE_FILE, Site, decode_site
from keys.errors import KeysError
from keys.io.signed_files import SignedFile, read_signed
from keys.note import DeliveryNote
from keys.signed import FIRMWARE as BASELINE
from keys.signed import NOTE, Kind, check_either
from keys.signed import POLICY as SIGNED_POLICY

ROOT_CERTIFICATE, ROOT_KEY = "trust/root.pem", "trust/root.pub"


class LiveSettings:
    """Call it to get the settings in force; `refresh` looks whether a file changed."""

    def __init__(
        self, directory: Path, *, rehearsal: bool, floors: InputFloors | None = None
    ) -> None:
        """Read everything; SiteError names the file that does not hold.

        `floors` knows the newest documents that were taken before this start.
        """
        self._directory = directory
        self._rehearsal = rehearsal
        self._floors = floors or InputFloors()
        self._stamp = self._stamps()
        self._settings = self._load()
        self.kept: str | None = None

    def __call__(self) -> Settings:
        """Give the settings in force."""
        return self._settings

    @property
    def rehearsal(self) -> bool:
        """Tell whether this is a rehearsal: only then may a software TPM's CA be an anchor."""
        return self._rehearsal

    def refresh(self, *, force: bool = False) -> bool:
        """Read again when a file changed, or by `force`; True when new settings are in force."""
        stamp = self._stamps()
        if stamp == self._stamp and not force:
            return False
        self._stamp = stamp
        try:
            self._settings = self._load()
        except SiteError as error:
            self.kept = f"kept the settings before: {error}"
            return False
        self.kept = None
        return True

    def _stamps(self) -> Mapping[str, tuple[int, int]]:
        stamps = {}
        for folder, _, files in os.walk(self._directory):
            if Path(folder).name == "offline":
                continue
            for name in files:
                try:
                    status = (Path(folder) / name).stat()
                except OSError:
                    continue
                stamps[f"{folder}/{name}"] = (status.st_mtime_ns, status.st_size)
        return stamps

    def _load(self) -> Settings:
        self._floors.ask()
        site = decode_site(self._read(SITE_FILE))
        root_pem = self._read(ROOT_CERTIFICATE)
        try:
            root = x509.load_pem_x509_certificate(root_pem)
        except ValueError:
            raise SiteError(f"{ROOT_CERTIFICATE}: is no PEM certificate: restore it") from None
        note, problem = self._note(site)
        platform = self._anchors(site.trust.ek_anchors, load_platform_trust)
        policy, (baseline, baseline_problem) = self._policy(site), self._baseline()
        return Settings(
            site=site,
            note=note,
            note_problem=problem,
            root_pem=root_pem,
            identity=SiteIdentity(
                site_id=site.site.id, root=sha256(root.public_bytes(Encoding.DER)).digest()
            ),
            anchors=self._anchors(site.trust.ek_anchors, load_trust),
            platform_anchors=platform if platform.certificates else None,
            templates={role.config: self._read_text(role.config) for role in site.roles},
            policy=policy,
            baseline=baseline,
            baseline_problem=baseline_problem,
            basis=basis_of(policy, baseline),
        )

    def _anchors(self, folder: str, load: Callable[..., Anchors]) -> Anchors:
        try:
            return load(self._directory / folder, rehearsal=self._rehearsal)
        except AttestError as error:
            raise SiteError(str(error)) from None

    def _policy(self, site: Site) -> Policy:
        """Read the policy; the one built in where there is no file.

        Headquarters may sign it; once it did, one that it did not sign is not taken.
        """
        found, floor = self._signed(POLICY, SIGNED_POLICY), self._floors.floor(SIGNED_POLICY.name)
        if found is None and floor is None:
            return Policy()
        if found is None:
            raise SiteError(f"{POLICY}: headquarters signed one and it is gone: put it back")
        if found.signatures or floor is not None:
            self._check_policy(found, site.site.id)
        try:
            policy = Policy.from_toml(_text(POLICY, found.data), POLICY)
        except AttestError as error:
            raise SiteError(str(error)) from None
        if policy.rehearsal and not self._rehearsal:
            raise SiteError(
                f"{POLICY}: rehearsal: this is a real site, where no TPM in software may pass: "
                "remove the key"
            )
        return policy

    def _check_policy(self, file: SignedFile, site_id: str) -> None:
        try:
            checked = check_either(
                SIGNED_POLICY,
                file.data,
                file.signatures,
                public_key=self._read(ROOT_KEY),
                site_id=site_id,
                floors=self._floors.floor,
            )
        except KeysError as error:
            raise SiteError(f"{POLICY}: {error}") from None
        self._floors.saw(checked)

    def _baseline(self) -> tuple[Baseline, str | None]:
        """Verify headquarters' firmware baseline; one that does not verify is none, and says why.

        A site that never had one has none; one that had must keep the newest.
        """
        floor = self._floors.floor(BASELINE.name)
        try:
            file = self._signed(FIRMWARE, BASELINE)
            if file is None:
                lost = f"no firmware is known: {FIRMWARE} was here and is gone: put it back"
                return Baseline(), lost if floor else None
            found = verify_baseline(
                file.data,
                *(file.signatures[:1] or (b"",)),
                public_key=self._read(ROOT_KEY),
                floor=floor,
                further=file.signatures[1:],
            )
        except (AttestError, KeysError, SiteError) as error:
            return Baseline(), f"no firmware is known: {error}"
        self._floors.saw(found.signed)
        return found.baseline, None

    def _note(self, site: Site) -> tuple[DeliveryNote | None, str | None]:
        """Verify the note; one that does not verify is none, and says why."""
        path = site.trust.delivery_note
        try:
            file = self._signed(path, NOTE)
            if file is None:
                raise SiteError(f"{self._directory / path}: it is missing: put it back")
            found = check_either(
                NOTE,
                file.data,
                file.signatures,
                public_key=self._read(ROOT_KEY),
                site_id=site.site.id,
                floors=self._floors.floor,
            )
            note = DeliveryNote.of(found)
        except (KeysError, SiteError) as error:
            return None, f"no box is on the delivery note: {error}"
        self._floors.saw(found)
        return note, None

    def _signed(self, name: str, kind: Kind) -> SignedFile | None:
        """Read a document with what lies beside it as its signature; SiteError when it cannot."""
        try:
            return read_signed(self._directory / name, kind.max_bytes)
        except KeysError as error:
            raise SiteError(str(error)) from None

    def _read_text(self, name: str) -> str:
        return _text(name, self._read(name))

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}: put it back") from error


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise SiteError(f"{name}: is not UTF-8 text: save it as UTF-8") from None
