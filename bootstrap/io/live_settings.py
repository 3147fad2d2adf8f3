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
from attest.firmwarefile import SignedBaseline, verify_baseline
from attest.io.trust import load_platform_trust, load_trust
from attest.policy import Policy
from attest.transcript import SiteIdentity
from bootstrap.check import FIRMWARE, POLICY
from bootstrap.errors import SiteError
from bootstrap.settings import Settings, basis_of
from bootstrap.site import SITE_FILE, Site, decode_site
from keys.errors import KeysError
from keys.note import DeliveryNote, Floor

ROOT_CERTIFICATE, ROOT_KEY = "trust/root.pem", "trust/root.pub"


class LiveSettings:
    """Call it to get the settings in force; `refresh` looks whether a file changed."""

    def __init__(
        self, directory: Path, *, rehearsal: bool, baseline_floor: SignedBaseline | None = None
    ) -> None:
        """Read everything; SiteError names the file that does not hold.

        `baseline_floor` is the newest firmware baseline that was seen before this start.
        """
        self._directory = directory
        self._rehearsal = rehearsal
        self.baseline_floor = baseline_floor
        self._floor: Floor | None = None
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

    def refresh(self) -> bool:
        """Read again when a file changed; True when new settings are in force."""
        stamp = self._stamps()
        if stamp == self._stamp:
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
        site = decode_site(self._read(SITE_FILE))
        root_pem = self._read(ROOT_CERTIFICATE)
        try:
            root = x509.load_pem_x509_certificate(root_pem)
        except ValueError:
            raise SiteError(f"{ROOT_CERTIFICATE}: is no PEM certificate: restore it") from None
        note, problem = self._note(site)
        platform = self._anchors(site.trust.ek_anchors, load_platform_trust)
        policy, (baseline, baseline_problem) = self._policy(), self._baseline()
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

    def _policy(self) -> Policy:
        """Read the policy; the one built in where there is no file."""
        if not (self._directory / POLICY).exists():
            return Policy()
        try:
            policy = Policy.from_toml(self._read_text(POLICY), POLICY)
        except AttestError as error:
            raise SiteError(str(error)) from None
        if policy.rehearsal and not self._rehearsal:
            raise SiteError(
                f"{POLICY}: rehearsal: this is a real site, where no TPM in software may pass: "
                "remove the key"
            )
        return policy

    def _baseline(self) -> tuple[Baseline, str | None]:
        """Verify headquarters' firmware baseline; one that does not verify is none, and says why.

        A site that never had one has none; one that had must keep the newest.
        """
        path, floor = self._directory / FIRMWARE, self.baseline_floor
        if not path.exists():
            lost = f"no firmware is known: {FIRMWARE} was here and is gone: put it back"
            return Baseline(), lost if floor else None
        try:
            found = verify_baseline(
                self._read(FIRMWARE),
                self._read(f"{FIRMWARE}.minisig"),
                public_key=self._read(ROOT_KEY),
                floor=floor,
            )
        except (AttestError, KeysError, SiteError) as error:
            return Baseline(), f"no firmware is known: {error}"
        self.baseline_floor = found
        return found.baseline, None

    def _note(self, site: Site) -> tuple[DeliveryNote | None, str | None]:
        """Verify the note; one that does not verify is none, and says why."""
        path = site.trust.delivery_note
        try:
            note = DeliveryNote.verify(
                self._read(path),
                self._read(f"{path}.minisig"),
                public_key=self._read(ROOT_KEY),
                site_id=site.site.id,
                floor=self._floor,
            )
        except (KeysError, SiteError) as error:
            return None, f"no box is on the delivery note: {error}"
        self._floor = note.floor
        return note, None

    def _read_text(self, name: str) -> str:
        try:
            return self._read(name).decode()
        except UnicodeDecodeError:
            raise SiteError(f"{name}: is not UTF-8 text: save it as UTF-8") from None

    def _read(self, name: str) -> bytes:
        path = self._directory / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise SiteError(f"{path}: {error.strerror}: put it back") from error
