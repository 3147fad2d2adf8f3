"""A real TPM for tests: swtpm in a directory of its own, spoken to through tpm2-pytss."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import ESYS_TR, TPM2_ALG, TPM2_SE
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_DIGEST,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_NONCE,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPML_DIGEST,
    TPML_PCR_SELECTION,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMT_SYM_DEF_OBJECT,
)

from attest.ektemplate import policy_a, policy_c
from keys.tpm_public import PublicArea

LOCALCA = """statedir = {ca}
signingkey = {ca}/signkey.pem
issuercert = {ca}/issuercert.pem
certserial = {ca}/certserial
"""
SETUP = """create_certs_tool = /usr/share/swtpm/swtpm-localca
create_certs_tool_config = {directory}/localca.conf
create_certs_tool_options = /etc/swtpm-localca.options
active_pcr_banks = {banks}
"""


class SoftwareTpm:
    """One swtpm with EK certificates from a CA of its own, in `directory`."""

    def __init__(
        self, directory: Path, *, certificates: bool = False, banks: str = "sha256", start=True
    ) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.ca = directory / "ca"
        self.process: subprocess.Popen[bytes] | None = None
        for path in (directory, self.state, self.ca):
            path.mkdir(exist_ok=True)
        (directory / "localca.conf").write_text(LOCALCA.format(ca=self.ca))
        (directory / "setup.conf").write_text(SETUP.format(directory=directory, banks=banks))
        command = ["swtpm_setup", "--tpm2", "--tpmstate", str(self.state), "--overwrite"]
        command += ["--config", str(directory / "setup.conf"), "--pcr-banks", banks]
        if certificates:
            command += ["--create-ek-cert", "--create-platform-cert", "--lock-nvram"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        if start:
            self.start()

    def start(self) -> None:
        """Power on: a start that is a TPM Reset."""
        socket = self.directory / "s"
        arguments = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.state}"]
        arguments += ["--server", f"type=unixio,path={socket}"]
        arguments += ["--ctrl", f"type=unixio,path={socket}.ctrl"]
        arguments += ["--flags", "not-need-init,startup-clear"]
        self.process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("swtpm did not start")
            time.sleep(0.01)

    def stop(self) -> None:
        """Cut the power."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None
        for name in ("s", "s.ctrl"):
            (self.directory / name).unlink(missing_ok=True)

    @contextmanager
    def open(self) -> Iterator[ESAPI]:
        """Connect; swtpm in this mode ends when the connection does, so start it again."""
        if self.process is None or self.process.poll() is not None:
            self.stop()
            self.start()
        try:
            esys = ESAPI(f"swtpm:path={self.directory / 's'}")
        except TSS2_Exception:  # it was still ending with the connection before
            self.stop()
            self.start()
            esys = ESAPI(f"swtpm:path={self.directory / 's'}")
        try:
            yield esys
        finally:
            esys.close()


def create_ek(esys: ESAPI, template: PublicArea):
    """Create the EK of a template; gives its handle and its public area."""
    public, _ = TPMT_PUBLIC.unmarshal(template.encode())
    handle, out, *_ = esys.create_primary(
        primary_handle=ESYS_TR.ENDORSEMENT,
        in_sensitive=TPM2B_SENSITIVE_CREATE(),
        in_public=TPM2B_PUBLIC(publicArea=public),
        outside_info=TPM2B_DATA(),
        creation_pcr=TPML_PCR_SELECTION(),
    )
    return handle, PublicArea.decode(out.publicArea.marshal())


@contextmanager
def ek_session(esys: ESAPI, ek: PublicArea) -> Iterator[ESYS_TR]:
    """Open the policy session that the low-range EK templates ask for."""
    session = esys.start_auth_session(
        tpm_key=ESYS_TR.NONE,
        bind=ESYS_TR.NONE,
        session_type=TPM2_SE.POLICY,
        symmetric=TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL),
        auth_hash=ek.name_alg,
    )
    try:
        esys.policy_secret(
            auth_handle=ESYS_TR.ENDORSEMENT,
            policy_session=session,
            nonce_tpm=TPM2B_NONCE(),
            cp_hash_a=TPM2B_DIGEST(),
            policy_ref=TPM2B_NONCE(),
            expiration=0,
        )
        if len(ek.auth_policy) and ek.attributes & 0x40:
            _policy_or(esys, session, ek)
        yield session
    finally:
        esys.flush_context(session)


def _policy_or(esys: ESAPI, session: ESYS_TR, ek: PublicArea) -> None:
    """Choose branch A of the high range's policy."""
    branches = TPML_DIGEST(
        [TPM2B_DIGEST(policy_a(ek.name_hash)), TPM2B_DIGEST(policy_c(ek.name_hash))]
    )
    esys.policy_or(policy_session=session, p_hash_list=branches)


def create_child(esys: ESAPI, parent: ESYS_TR, ek: PublicArea, template: PublicArea):
    """Create and load a key under an EK; gives its handle and public area."""
    public, _ = TPMT_PUBLIC.unmarshal(template.encode())
    with ek_session(esys, ek) as session:
        private, out, *_ = esys.create(
            parent_handle=parent,
            in_sensitive=TPM2B_SENSITIVE_CREATE(),
            in_public=TPM2B_PUBLIC(publicArea=public),
            outside_info=TPM2B_DATA(),
            creation_pcr=TPML_PCR_SELECTION(),
            session1=session,
        )
    with ek_session(esys, ek) as session:
        handle = esys.load(
            parent_handle=parent, in_private=private, in_public=out, session1=session
        )
    return handle, PublicArea.decode(out.publicArea.marshal())


def create_primary(esys: ESAPI, template: PublicArea, hierarchy: ESYS_TR):
    """Create a primary key; gives its handle and public area."""
    public, _ = TPMT_PUBLIC.unmarshal(template.encode())
    handle, out, *_ = esys.create_primary(
        primary_handle=hierarchy,
        in_sensitive=TPM2B_SENSITIVE_CREATE(),
        in_public=TPM2B_PUBLIC(publicArea=public),
        outside_info=TPM2B_DATA(),
        creation_pcr=TPML_PCR_SELECTION(),
    )
    return handle, PublicArea.decode(out.publicArea.marshal())


def activate(esys: ESAPI, ak, ek_handle, ek: PublicArea, blob: bytes, seed: bytes) -> bytes:
    """Open a credential: TPM2_ActivateCredential."""
    with ek_session(esys, ek) as session:
        secret = esys.activate_credential(
            activate_handle=ak,
            key_handle=ek_handle,
            credential_blob=TPM2B_ID_OBJECT(credential=blob),
            secret=TPM2B_ENCRYPTED_SECRET(secret=seed),
            session1=ESYS_TR.PASSWORD,
            session2=session,
        )
    return bytes(secret.buffer)


def import_object(esys: ESAPI, ek_handle, ek: PublicArea, public: PublicArea, blob, seed):
    """Import and load a duplicate under an EK; gives its handle."""
    area, _ = TPMT_PUBLIC.unmarshal(public.encode())
    wanted = TPM2B_PUBLIC(publicArea=area)
    with ek_session(esys, ek) as session:
        private = esys.import_(
            parent_handle=ek_handle,
            encryption_key=TPM2B_DATA(),
            object_public=wanted,
            duplicate=TPM2B_PRIVATE(buffer=blob),
            in_sym_seed=TPM2B_ENCRYPTED_SECRET(secret=seed),
            symmetric_alg=TPMT_SYM_DEF_OBJECT(algorithm=TPM2_ALG.NULL),
            session1=session,
        )
    with ek_session(esys, ek) as session:
        return esys.load(
            parent_handle=ek_handle, in_private=private, in_public=wanted, session1=session
        )


def read_pcrs(esys: ESAPI, bank: str) -> dict[int, bytes]:
    """Read PCR 0 to 15 of a bank, in as many calls as it takes."""
    values: dict[int, bytes] = {}
    for index in range(16):
        answer = esys.pcr_read(pcr_selection_in=f"{bank}:{index}")
        digests = answer[2]
        values[index] = bytes(digests.digests[0].buffer)
    return values


def quote(esys: ESAPI, ak, selection: str, extra_data: bytes) -> tuple[bytes, bytes]:
    """Quote; gives TPMS_ATTEST and TPMT_SIGNATURE."""
    attest, signature = esys.quote(
        sign_handle=ak,
        pcr_select=selection,
        qualifying_data=TPM2B_DATA(extra_data),
        in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
    )
    return bytes(attest.attestationData), signature.marshal()


def certify(esys: ESAPI, key, ak, extra_data: bytes) -> tuple[bytes, bytes]:
    """Certify `key` by the AK; gives TPMS_ATTEST and TPMT_SIGNATURE."""
    attest, signature = esys.certify(
        object_handle=key,
        sign_handle=ak,
        qualifying_data=TPM2B_DATA(extra_data),
        in_scheme=TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL),
    )
    return bytes(attest.attestationData), signature.marshal()


def read_nv(esys: ESAPI, index: int) -> bytes:
    """Read a whole NV index with owner authorization."""
    handle = esys.tr_from_tpmpublic(handle=index)
    public, _ = esys.nv_read_public(nv_index=handle)
    size = int(public.nvPublic.dataSize)
    parts = bytearray()
    while len(parts) < size:
        take = min(512, size - len(parts))
        part = esys.nv_read(
            nv_index=handle, size=take, offset=len(parts), auth_handle=ESYS_TR.OWNER
        )
        parts += bytes(part.buffer)
    return bytes(parts)
