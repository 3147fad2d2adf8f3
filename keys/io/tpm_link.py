"""The connection to a TPM: what it answered, what it refused, and that it is gone.

TPM 2.0 Library, Part 2, 6.6; TSS 2.0 Overview, "Response Code Layer".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from tpm2_pytss import ESAPI, TSS2_Exception

from keys.errors import SiteError

_LAYER, _TCTI_LAYER, _BAD_SEQUENCE = 0xFF0000, 0x0A0000, 0x070007
"""Error codes of tpm2-tss: who says it; the wire broke; what its context says ever after."""
_FORMAT_ONE_ERROR, _RC_HANDLE = 0x0BF, 0x08B
"""TPM_RC_HANDLE without the number of the handle (Part 2, 6.6.2): there is nothing of the kind."""


class TpmRefusedError(SiteError):
    """The TPM answered, and said no: a policy does not hold, a signature does not verify."""


class TpmGoneError(SiteError):
    """The TPM does not answer; the next call connects again."""


class TpmLink:
    """A connection; close it, or use it as a context manager."""

    def __init__(self, tcti: str) -> None:
        """Connect; TpmGoneError."""
        self._tcti = tcti
        self._handles: dict[int, Any] = {}
        self._connection: Any = None
        self._connect()

    def _connect(self) -> Any:
        try:
            self._connection = ESAPI(self._tcti)
        except (TSS2_Exception, RuntimeError) as error:
            raise TpmGoneError(f"the TPM at {self._tcti} does not answer: {error}") from None
        return self._connection

    @property
    def _esys(self) -> Any:
        """The connection; one that broke is made anew, for tpm2-tss uses no such one again."""
        return self._connection or self._connect()

    def __enter__(self) -> Self:
        """Give the TPM itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._handles.clear()

    def _find(self, number: int) -> Any:
        """Give the handle of what is persistent, or None; each is looked up once.

        tpm2-tss keeps an object for every look-up until the connection ends.
        """
        if number not in self._handles:
            try:
                self._handles[number] = self._esys.tr_from_tpmpublic(handle=number)
            except TSS2_Exception as error:
                self._check_answered(error)
                if error.rc & _FORMAT_ONE_ERROR != _RC_HANDLE:
                    raise SiteError(f"the TPM does not say what it holds: {error}") from None
                return None
        return self._handles[number]

    def _flush(self, handle: Any) -> None:
        """Let the TPM forget an object or a session; one that was lost has forgotten."""
        if self._connection is None:
            return
        try:
            self._connection.flush_context(flush_handle=handle)
        except TSS2_Exception as error:
            with contextlib.suppress(TpmGoneError):  # the next call connects again
                self._check_answered(error)

    # errors

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """Turn what the TPM stack says into a sentence."""
        try:
            yield
        except TSS2_Exception as error:
            self._check_answered(error)
            raise SiteError(f"the TPM does not give {what}: {error}") from None

    @contextmanager
    def _refusing(self, why: str) -> Iterator[None]:
        try:
            yield
        except TSS2_Exception as error:
            self._check_answered(error)
            raise TpmRefusedError(f"the TPM refuses: {why} ({error})") from None

    def _check_answered(self, error: TSS2_Exception) -> None:
        """Tell an answer from none; TpmGoneError, and the connection is given up."""
        if error.rc & _LAYER == _TCTI_LAYER or error.rc == _BAD_SEQUENCE:
            self.close()
            raise TpmGoneError(f"the TPM does not answer: {error}") from None
