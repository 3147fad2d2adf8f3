"""Barbican as an upstream, with an application credential of Keystone.

It only reads. Keystone's catalogue is not asked for: where Barbican is, the site file says, so
what answers cannot send the token elsewhere. Of the reference in a list only the id is used.
OpenStack Identity API v3, Key Manager API v1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from keystoneauth1 import exceptions, session
from keystoneauth1.identity.v3 import ApplicationCredential
from requests import RequestException, Response

from keys.errors import PeerError, SiteError
from keys.io.upstreams.http import BYTES, JSON, NoAnswerError, pinned, session_for
from keys.upstream import Fetched, Gone, Trouble, UpstreamRule
from keys.upstream_answers import (
    PAGE,
    Entry,
    application_credential_ends,
    barbican_page,
    is_barbican_error,
    newest,
    payload,
)
from keys.upstream_credentials import AppCredential

MAX_PAGES = 5
FORM = "its answer has another form than Keystone's"
LIBRARY = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RequestException)
"""What keystoneauth1 lets out when an answer lacks what it takes for granted."""


class Barbican:
    """One Barbican; keeps its token, and nothing of a secret."""

    def __init__(self, rule: UpstreamRule, credential: AppCredential, directory: Path) -> None:
        """Take the settings; `directory` is where the site file is. SiteError: no usable CA."""
        if rule.auth_url is None:
            raise SiteError(f"upstream {rule.name}: auth_url is missing")
        self._rule, self._id = rule, credential.credential_id
        self._peer = pinned(rule, directory)
        self._login = ApplicationCredential(
            auth_url=rule.auth_url,
            application_credential_id=credential.credential_id,
            application_credential_secret=credential.secret.reveal().decode(),
            include_catalog=False,
        )
        self._session = session.Session(
            auth=self._login, session=session_for(self._peer), redirect=False
        )
        self._ends: int | None = None

    def fetch(self, path: str) -> Fetched | Gone | Trouble:
        """Ask for the newest active secret of that name, then for its payload."""
        try:
            return self._newest(path)
        except NoAnswerError as error:
            return error.trouble
        except PeerError as error:
            return Trouble(sentence=self._sentence(str(error)))
        except exceptions.ClientException as error:
            return self._refused(getattr(error, "http_status", None))
        except LIBRARY:
            self._login.invalidate()  # it would ask its strange token for its end for ever
            return self._refused(None)

    def credential_ends(self) -> int | None:
        """Ask Keystone for the end of our credential; what was learned last when it says nothing.

        It says it to a credential whose access rules let it read itself.
        """
        try:
            user = self._session.get_user_id()
            address = f"{self._rule.auth_url}/users/{user}/application_credentials/{self._id}"
            answer = self._get(address, JSON)
            if answer.status_code == 200:
                self._ends = application_credential_ends(answer.content, self._id)
        except (PeerError, exceptions.ClientException):
            return self._ends
        except LIBRARY:
            self._login.invalidate()
        return self._ends

    def _newest(self, name: str) -> Fetched | Gone | Trouble:
        entries: list[Entry] = []
        for number in range(MAX_PAGES):
            answer = self._get(f"{self._rule.url}/v1/secrets", JSON, name, number * PAGE)
            if answer.status_code != 200:
                return self._unlisted(answer)
            page = barbican_page(answer.content, name)
            entries += page.entries
            if entries or number * PAGE + page.count >= page.total:
                return self._chosen(entries, name)
        raise PeerError(f"more than {MAX_PAGES * PAGE} secrets there are named like {name}")

    def _chosen(self, entries: Sequence[Entry], name: str) -> Fetched | Gone | Trouble:
        entry = newest(entries)
        if entry is None:
            return Gone(status=404, sentence=self._sentence(f"there is no active secret {name}"))
        answer = self._get(f"{self._rule.url}/v1/secrets/{entry.secret_id}/payload", BYTES)
        if answer.status_code != 200:
            return self._denied(answer, name)
        return payload(answer.content, entry)

    def _get(self, url: str, accept: str, name: str | None = None, offset: int = 0) -> Response:
        """Ask with our token; a second time with a new one when it was refused."""
        query = {"name": name, "sort": "created:desc", "limit": PAGE, "offset": offset}
        return self._session.get(
            url,
            headers={"Accept": accept},
            params={} if name is None else query,
            authenticated=True,
            raise_exc=False,
            log=False,
        )

    def _unlisted(self, answer: Response) -> Trouble:
        """Tell of a list that we may not see: that is no word about a secret, and purges none."""
        status = answer.status_code
        if status == 401 or (status == 403 and is_barbican_error(answer.content, status)):
            return self._refused(status)
        return self._strange(answer)

    def _denied(self, answer: Response, name: str) -> Gone | Trouble:
        status = answer.status_code
        if status == 401:
            return self._refused(status)
        if status not in (403, 404) or not is_barbican_error(answer.content, status):
            return self._strange(answer)
        why = "there is no secret" if status == 404 else "our credential may not read"
        return Gone(status=status, sentence=self._sentence(f"{why} {name}"))

    def _strange(self, answer: Response) -> Trouble:
        what = f"answered status {answer.status_code} in no form of Barbican's"
        return Trouble(sentence=self._sentence(what))

    def _refused(self, status: int | None) -> Trouble:
        """Tell of a login that failed; Keystone knows a deleted credential no more (404)."""
        if status not in (401, 403, 404):
            what = FORM if status is None else f"the login failed with status {status}"
            return Trouble(sentence=self._at_keystone(what))
        return Trouble(
            sentence=self._at_keystone(
                "our application credential is refused; it ended, was deleted or may not list "
                "secrets: give this site a new one"
            ),
            login=True,
        )

    def _sentence(self, what: str) -> str:
        return self._peer.sentence(self._rule.url, what)

    def _at_keystone(self, what: str) -> str:
        return self._peer.sentence(self._rule.auth_url or "", what)
