"""What can stop the agent: one reason code and one sentence each, fit for the box's console.

It never carries a secret. Pure.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a box does not go on; the first three are told to the site as trouble."""

    TPM_NONE = "TPM-NONE"
    TPM_OWNED = "TPM-OWNED"
    EK_NONE = "EK-NONE"
    TPM_FAILED = "TPM-FAILED"
    PCR_MOVED = "PCR-MOVED"
    ANCHOR = "ANCHOR"
    NET_NONE = "NET-NONE"
    SITE_UNREACHABLE = "SITE-UNREACHABLE"
    SITE_UNTRUSTED = "SITE-UNTRUSTED"
    SITE_SAYS = "SITE-SAYS"
    ANSWER_MALFORMED = "ANSWER-MALFORMED"
    ANSWER_CHAIN = "ANSWER-CHAIN"
    ANSWER_SIGNATURE = "ANSWER-SIGNATURE"
    ANSWER_OTHER = "ANSWER-OTHER"
    CREDENTIAL = "CREDENTIAL"
    BUNDLE_OTHER_BOOT = "BUNDLE-OTHER-BOOT"
    BUNDLE_OTHER_PCRS = "BUNDLE-OTHER-PCRS"
    BUNDLE_EXPIRED = "BUNDLE-EXPIRED"
    BUNDLE_CLOSED = "BUNDLE-CLOSED"
    HANDOFF = "HANDOFF"


TROUBLE = frozenset({Code.TPM_NONE, Code.TPM_OWNED, Code.EK_NONE})
"""Codes that `POST /v1/trouble` takes."""


class AgentError(Exception):
    """Base of every error of the agent; the text is one sentence."""

    def __init__(self, code: Code, sentence: str) -> None:
        """Keep the code beside the sentence."""
        super().__init__(sentence)
        self.code = code


class PeerError(AgentError):
    """What came from outside must not be accepted; nothing of it was used."""


class BoxError(AgentError):
    """This box is not fit to begin: its TPM, its network or its anchor."""


class SiteRefusalError(PeerError):
    """The site answered with an HTTP error; `status` and its own `reason` are kept."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        """Keep what the (unsigned) error said."""
        super().__init__(Code.SITE_SAYS, f"the site answers {status} {reason}: {sentence}")
        self.status = status
        self.reason = reason
