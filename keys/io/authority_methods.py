"""The methods about the site's authorities: requests, what the offline root answered, the lists.

It decides nothing: `keys.ca` and `keys.crl` check what is brought. docs/identities.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keys import ca, crl
from keys.ca import Kind
from keys.io.authority import Authority
from keys.io.method_rows import OPERATOR_ALONE, MethodRow, Record
from keys.io.rpc import Params, Refusal
from keys.io.store import Store

MAX_PEM, MAX_LIST = 16384, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityMethods:
    """The methods; `refresh` issues what became due and never raises."""

    store: Store
    authority: Authority
    record: Record
    refresh: Callable[[float], None]

    def methods(self) -> dict[str, MethodRow]:
        """Give their rows of the socket table."""
        return {
            "ca_requests": MethodRow(
                serve=self._requests, users=OPERATOR_ALONE, administrative=True
            ),
            "ca_install": MethodRow(serve=self._install, users=OPERATOR_ALONE, administrative=True),
            "ca_crl": MethodRow(serve=self._list, users=OPERATOR_ALONE),
        }

    def _requests(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        return {"requests": self.authority.requests()}

    def _install(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        """Install one or both certificates and the root's list: all of it, or nothing."""
        texts = {
            kind: _text(params[name], MAX_PEM)
            for kind in Kind
            if (name := f"{kind.value}_pem") in params
        }
        listed = params.get("root_crl_pem")
        if not texts and listed is None:
            raise Refusal("MALFORMED", "nothing to install: a certificate or a list is expected")
        checked = {
            kind: self.authority.check(kind, text, ca.at(now)) for kind, text in texts.items()
        }
        found = None
        if listed is not None:
            found = self.authority.check_root_list(_text(listed, MAX_LIST), ca.at(now))
        self.authority.check_unrevoked(checked, found)
        with self.store.transaction():
            for kind, certificate in checked.items():
                self.authority.install(kind, certificate)
            if found is not None:
                self.authority.install_root_list(found)
            serials = {kind.value: f"{one.serial_number:x}" for kind, one in checked.items()}
            root_list = None if found is None else crl.number(found)
            self.record(now, user, "ca-installed", serials=serials, root_list=root_list)
        self.refresh(now)
        return {f"{kind.value}_not_after": self.authority.end(kind.value) for kind in Kind}

    def _list(self, user: str, params: Params, now: float) -> Mapping[str, Any]:
        self.authority.refresh_list(ca.at(now))
        found, text = self.authority.lists()
        return {
            "pem": text,
            "number": crl.number(found),
            "revoked": len(found),
            "made": crl.begin(found).timestamp(),
            "ends": crl.end(found).timestamp(),
        }


def _text(value: object, most: int) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise Refusal("MALFORMED", "a certificate is expected as PEM")
    return value
