"""KV version 2 of Vault or OpenBao as an upstream, with a token or with AppRole, through hvac.

It only reads. Both servers answer 403 to a path that we may not read and to a token that ended;
only a token that still knows itself makes a 403 an answer about the secret. Tried against a
double of ours alone: no server can be had here.
"""

from __future__ import annotations

from pathlib import Path

from hvac import Client
from hvac.adapters import RawAdapter
from hvac.exceptions import VaultError
from requests import RequestException, Response

from keys.errors import PeerError
from keys.io.upstreams.http import NoAnswerError, pinned, session_for
from keys.secret import Secret
from keys.upstream import Fetched, Gone, Trouble, UpstreamRule, split_field
from keys.upstream_answers import (
    approle_login,
    is_kv2_deleted,
    is_vault_error,
    kv2_secret,
    secret_id_ends,
    token_ends,
)
from keys.upstream_credentials import AppRoleCredential, TokenCredential

LIBRARY = (LookupError, TypeError, ValueError, AttributeError, RequestException, VaultError)
"""What hvac lets out when an answer lacks what it takes for granted."""


class Kv2:
    """One mount of one server; keeps its token, and nothing of a secret."""

    def __init__(
        self,
        rule: UpstreamRule,
        credential: TokenCredential | AppRoleCredential,
        directory: Path,
    ) -> None:
        """Take the settings; `directory` is where the site file is. SiteError: no usable CA."""
        self._rule, self._credential = rule, credential
        self._peer = pinned(rule, directory)
        known = credential.token if isinstance(credential, TokenCredential) else Secret(b"")
        self._client = Client(
            url=rule.url,
            token=known.reveal().decode(),  # with None hvac reads VAULT_TOKEN and ~/.vault-token
            verify=True,
            session=session_for(self._peer),
            adapter=RawAdapter,
            allow_redirects=False,
            namespace=rule.namespace,
            ignore_exceptions=True,  # they would hold the answer's text
        )
        self._role = ""
        self._ends: int | None = None

    def fetch(self, path: str) -> Fetched | Gone | Trouble:
        """Ask for the newest version of one secret; `path` may name a field."""
        try:
            return self._fetch(*split_field(path))
        except NoAnswerError as error:
            return error.trouble
        except PeerError as error:
            return self._trouble(str(error))
        except LIBRARY:
            return self._trouble("its answer has another form than this interface has")

    def credential_ends(self) -> int | None:
        """Ask for the end of the token or the secret id; what was learned last without an answer.

        A secret id tells only whom the policy lets look it up.
        """
        try:
            if self._client.token or self._log_in() is None:
                self._learn_end()
        except (PeerError, *LIBRARY):
            return self._ends
        return self._ends

    def _fetch(self, path: str, field: str) -> Fetched | Gone | Trouble:
        """Read, and once more with a new token when the old one ended."""
        for _ in range(2):
            if not self._client.token and (trouble := self._log_in()) is not None:
                return trouble
            answer = self._client.secrets.kv.v2.read_secret_version(
                path, mount_point=self._rule.mount, raise_on_deleted_version=True
            )
            if answer.status_code not in (401, 403):
                return self._outcome(answer, path, field)
            if not is_vault_error(answer.content):
                return self._strange(answer)
            if self._knows_itself():
                return Gone(
                    status=403, sentence=self._sentence(f"our credential may not read {path}")
                )
            if isinstance(self._credential, TokenCredential):
                break
            self._client.token = ""
        return self._refused()

    def _outcome(self, answer: Response, path: str, field: str) -> Fetched | Gone | Trouble:
        body = answer.content
        if answer.status_code == 200:
            return kv2_secret(body, field)
        if answer.status_code == 404 and is_kv2_deleted(body):
            return Gone(status=404, sentence=self._sentence(f"the secret {path} was deleted"))
        if answer.status_code == 404 and is_vault_error(body):
            return Gone(status=404, sentence=self._sentence(f"there is no secret {path}"))
        return self._strange(answer)

    def _log_in(self) -> Trouble | None:
        """Get a token with AppRole; None when there is one now."""
        if isinstance(self._credential, TokenCredential):
            return None
        answer = self._client.auth.approle.login(
            role_id=self._credential.role_id.reveal().decode(),
            secret_id=self._credential.secret_id.reveal().decode(),
            use_token=False,
            mount_point=self._rule.login_mount,
        )
        if answer.status_code != 200:
            return self._refused() if is_vault_error(answer.content) else self._strange(answer)
        login = approle_login(answer.content)
        self._client.token, self._role = login.token.reveal().decode(), login.role
        return None

    def _knows_itself(self) -> bool:
        """Say whether our token is still good; NoAnswerError when that cannot be learned."""
        return self._lookup().status_code == 200

    def _lookup(self) -> Response:
        answer: Response = self._client.auth.token.lookup_self()
        if answer.status_code == 200:
            token_ends(answer.content)
        return answer

    def _learn_end(self) -> None:
        if isinstance(self._credential, TokenCredential):
            answer, read = self._lookup(), token_ends
        elif self._role:
            secret_id = self._credential.secret_id.reveal().decode()
            answer = self._client.auth.approle.read_secret_id(
                self._role, secret_id, mount_point=self._rule.login_mount
            )
            read = secret_id_ends
        else:
            return
        if answer.status_code == 200:
            self._ends = read(answer.content)

    def _refused(self) -> Trouble:
        what = "our credential is refused; it ended or was revoked: give this site a new one"
        return Trouble(sentence=self._sentence(what), login=True)

    def _strange(self, answer: Response) -> Trouble:
        return self._trouble(f"answered status {answer.status_code} in no form of this interface")

    def _trouble(self, what: str) -> Trouble:
        return Trouble(sentence=self._sentence(what))

    def _sentence(self, what: str) -> str:
        return self._peer.sentence(self._rule.url, what)
