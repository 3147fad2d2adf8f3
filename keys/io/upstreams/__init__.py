"""Adapters of the upstreams that secrets come from; `keys.upstream` has what they answer.

`open_upstream` imports the one that is needed: only doorstep-sync has their libraries (extra
`sync`).
"""

from __future__ import annotations

from pathlib import Path

from keys.secret import Secret
from keys.upstream import Upstream, UpstreamRule
from keys.upstream_credentials import AppCredential, read_credential


def open_upstream(rule: UpstreamRule, credential: Secret, directory: Path) -> Upstream:
    """Make the adapter of one upstream; it connects when it is first asked.

    `credential` is the operator's JSON, `directory` where the site file is. SiteError: what is
    wrong with the credential or the CA file.
    """
    login = read_credential(rule, credential)
    if isinstance(login, AppCredential):
        from keys.io.upstreams.barbican import Barbican

        return Barbican(rule, login, directory)
    from keys.io.upstreams.kv2 import Kv2

    return Kv2(rule, login, directory)
