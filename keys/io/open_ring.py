"""Which keys a cache hangs on: as the site file says, and as it was begun."""

from __future__ import annotations

from keys.errors import SiteError
from keys.io.layout import REHEARSAL_MARK, Layout
from keys.io.ring import FileRing, Ring
from keys.io.store import Store
from keys.io.tpm_ring import TPM_META, TpmRing, rehearsal_socket
from keys.io.vault import CHECK
from keys.rules import SiteRules


def open_ring(layout: Layout, store: Store, rules: SiteRules) -> Ring:
    """Give the keys as the site file says; SiteError when the database was made otherwise.

    A rehearsal never opens the machine's own TPM: it would take it for good.
    """
    tcti, is_new = rules.controller.tcti, store.meta(CHECK) is None
    if tcti is not None and (layout.state / REHEARSAL_MARK).exists():
        tcti = f"swtpm:path={rehearsal_socket(layout)}"
    has_tpm = store.meta(TPM_META) is not None
    if tcti is not None and not is_new and not has_tpm:
        raise SiteError(
            "keys.db was made without a TPM: take controller.tpm out of site.toml, "
            "or move keys.db away and put the secrets again"
        )
    if tcti is None and has_tpm:
        raise SiteError("keys.db hangs on this controller's TPM: say which in controller.tpm")
    if tcti is None:
        return FileRing(layout, is_new=is_new)
    return TpmRing(layout, store, tcti, rules.site_id)
