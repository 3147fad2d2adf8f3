"""What a technician does about each reason code: one table of plain sentences.

Pure data. It decides nothing, and a code without a step is a failing test. The codes are those of
`attest.reasons`, of control and keys, of netboot's events, and of the agent on the box's screen.
"""

from __future__ import annotations

from collections.abc import Mapping

_AGAIN = "Switch the box off and on once. If the same comes again, "
_TAMPER = _AGAIN + "unplug it, keep it aside and call: it may have been tampered with."
_FAULT = "Leave the box as it is and call: this is a fault of the site, not of the box."
_FOREIGN_START = (
    "Take out every USB stick and disc, set network boot first, then switch the box off and on."
)
_HEADQUARTERS = "Leave the box plugged in and call: headquarters decides about it."

NEXT_STEP: Mapping[str, str] = {
    # not heard, or stopped before it could speak
    "NO-DHCP": "Check the cable and the light of its port, then the boot order.",
    "DHCP-NOBOOT": "Set network boot as the first boot option, then switch the box off and on.",
    "BOOT-STALL": "Switch the box off and on once, then swap the cable, then use another port.",
    "PROOF-STALL": "Switch the box off and on once. If it stops here again, call.",
    "HANDOVER-STALL": "Look at the services on this page. If all of them answer, call.",
    "REPORT-STALL": "Wait five minutes, then switch the box off and on once.",
    "LOST-STALL": "Check that the box is switched on and its cable is plugged in.",
    "OTHER-DHCP": "Unplug the other device that gives out addresses, or call.",
    "FOREIGN-DHCP": "Unplug the other device that gives out addresses, or call.",
    "ARCH": "Call and say the model of the box: this site has no start file for it.",
    "IN-USE": "Nothing: the box is given another address. If it happens again, call.",
    "RESERVED-IN-USE": "Find the other device that uses this box's address and unplug it, or call.",
    "NOT-YOURS": "Wait a minute: the box asks for a new address by itself.",
    "RESERVED": "Wait a minute: the box asks for the address that is reserved for it by itself.",
    "WRONG-NET": "Check that the cable is in the right port: the box came from another network.",
    "NOT-FOUND": "Set network boot first, then switch the box off and on. If it comes again, call.",
    "FORBIDDEN": "Unplug the box and call: it asked for files that it should not know.",
    "NOT-HERE": "Plug the box into a port of the network that boxes are started from.",
    "LOST": _FAULT,
    "SB-DENY": "Call and say the model: its firmware refused the start file of this site.",
    # the conversation
    "SESSION-UNKNOWN": "Wait a minute: the box begins again by itself. If it does not, restart it.",
    "REPLAY": _TAMPER,
    "MALFORMED": _TAMPER,
    "TOO-LARGE": "Call and say the model of the box: what it sends is too large.",
    "TOO-MANY": "Wait two minutes: the box tries again by itself.",
    "RATE": "Wait ten minutes: the site hands over to a few boxes at a time.",
    "SITE-NOT-READY": "Wait a minute, then look at the services on this page.",
    "SITE-FAULT": _FAULT,
    "KEYS-SILENT": "Wait a minute, then look at the services on this page.",
    "NO-CA": "Call: the operator has not signed this site's certificates yet.",
    "CLOCK": "Call: the date of the controller must be checked first.",
    # the TPM and its keys
    "TPM-NONE": "Switch the security chip (TPM) on in the firmware setup, then restart the box.",
    "TPM-OWNED": "Clear the security chip (TPM) in the firmware setup, then restart the box.",
    "TPM-FAILED": _AGAIN + "call: its security chip may be broken.",
    "EK-NONE": "Call: the security chip of this box has no identity of its own.",
    "EK-STRUCTURE": "Unplug the box and call: its security chip is not one that this site can use.",
    "EK-TEMPLATE": "Unplug the box and call: its security chip is not one that this site can use.",
    "EK-CERT-MISMATCH": _TAMPER,
    "EK-VIRTUAL": "Unplug it and call: a virtual machine pretends to be a box.",
    "EK-CERT-INVALID": _HEADQUARTERS,
    "EK-CERT-EXPIRED": _HEADQUARTERS,
    "EK-UNKNOWN": "Call: headquarters decides about the maker of this security chip.",
    "EK-UNLISTED": "Compare its label with the delivery note, then call headquarters.",
    "EK-NOT-ALLOWED": "Compare its label with the delivery note, then call headquarters.",
    "AK-ATTRIBUTES": _TAMPER,
    "AK-NOT-UNDER-EK": _TAMPER,
    "DEVICE-KEY": _TAMPER,
    "QUOTE-STRUCTURE": _TAMPER,
    "QUOTE-SIGNATURE": _TAMPER,
    "QUOTE-NONCE": _TAMPER,
    "QUOTE-SELECTION": "Switch on SHA-256 for the security chip (TPM) in the firmware setup.",
    "QUOTE-DIGEST": _TAMPER,
    "BANK-SHA1-ONLY": "Switch on SHA-256 for the security chip (TPM) in the firmware setup.",
    "BANK-UNEXTENDED": "Update the firmware, or switch the unused TPM bank off in its setup.",
    "COUNTER-BACK": _TAMPER,
    "TPM-CLEARED": "Say whether somebody cleared the security chip, and call headquarters.",
    # how it booted
    "SECURE-BOOT-OFF": "Switch Secure Boot on in the firmware setup, then restart the box.",
    "SECURE-BOOT-UNPROVED": "Reset the Secure Boot keys in the firmware setup, then restart.",
    "SECURE-BOOT-KEYS": "Restore the factory Secure Boot keys in the firmware setup, then restart.",
    "MOK-ENROLLED": "Reset the MOK list (machine owner keys) of the box, or call for help with it.",
    "INITRD-UNKNOWN": _FOREIGN_START,
    "KERNEL-UNKNOWN": _FOREIGN_START,
    "LOADER-UNKNOWN": _FOREIGN_START,
    "GRUB-CFG-UNKNOWN": _FOREIGN_START,
    "COMMAND-LINE-UNKNOWN": _FOREIGN_START,
    "OTHER-PROGRAM": _FOREIGN_START,
    "BOOT-SET-WITHDRAWN": "Switch the box off and on, so that it loads the present start files.",
    "PCR-MISMATCH": _FOREIGN_START,
    "LOG-MISSING": "Switch Secure Boot on if it is off and restart; else call headquarters.",
    "LOG-MALFORMED": _TAMPER,
    "LOG-REPLAY": _TAMPER,
    "FIRMWARE-UNCHECKED": "Nothing: the box is not held back for this.",
    "VERIFIER-FAULT": _FAULT,
    # what this site knows of it
    "FACTS-DIFFER": "Compare its label with the delivery note; if they agree, call headquarters.",
    "LABEL-MISMATCH": "Find the box that this label belongs to; never swap labels.",
    "SLOT-TAKEN": "Call: another box has this position.",
    "ROLE-DIFFERS": "Call headquarters: the delivery note gives this box another task.",
    "APPROVAL-NEEDED": "Call headquarters and ask for the approval of this box.",
    "REVOKED": "Unplug the box and send it back: it was taken out of service.",
    "HANDED-OVER": "Switch the box off and on: each start gets one hand-over.",
    "SITE-SETTINGS": "Call: the settings of this site must be corrected.",
    # secrets that it did not get
    "SECRET-MISSING": "Call: the operator has not stored this secret yet.",
    "SECRET-EXPIRED": "Call: this secret is out of date, and the site must get a new one.",
    "SECRET-UNREADABLE": "Call: the site cannot read this secret any more and must get it again.",
    # what the box says on its own screen
    "PCR-MOVED": _AGAIN + "call.",
    "ANCHOR": "Switch the box off and on, so that it loads the present start files.",
    "NET-NONE": "Check the cable and the light of its port, then restart the box.",
    "SITE-UNREACHABLE": "Look whether this page works. If it does, check the cable of the box.",
    "SITE-UNTRUSTED": "Unplug the box and call: something else answers in place of this site.",
    "SITE-SAYS": "Find the card of this box on this page and do what it says.",
    "ANSWER-MALFORMED": "Unplug the box and call: it got an answer that this site did not write.",
    "ANSWER-CHAIN": "Unplug the box and call: it got an answer that this site did not write.",
    "ANSWER-SIGNATURE": "Unplug the box and call: it got an answer that this site did not write.",
    "ANSWER-OTHER": "Unplug the box and call: it got an answer that this site did not write.",
    "CREDENTIAL": _AGAIN + "call.",
    "BUNDLE-OTHER-BOOT": "Switch the box off and on: what it got was for an earlier start.",
    "BUNDLE-OTHER-PCRS": _TAMPER,
    "BUNDLE-EXPIRED": "Switch the box off and on: it took too long.",
    "BUNDLE-CLOSED": "Switch the box off and on: each start gets one hand-over.",
    "HANDOFF": "Call: the box could not use the configuration that it was given.",
}
"""What to do now, by reason code; each a whole sentence."""
