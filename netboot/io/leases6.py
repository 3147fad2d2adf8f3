"""IPv6 leases and the server's DUID in `netboot.db`; leases are written as all others are."""

from __future__ import annotations

import uuid
from ipaddress import IPv6Address

from netboot.dhcp6_options import duid_mac, uuid_duid
from netboot.errors import SiteError
from netboot.io.leases import NetbootStore
from netboot.leases import LeaseState
from netboot.leases6 import Lease6

_COLUMNS = "address, subnet, duid, iaid, mac, uuid, state, expires, name"


def server_duid(store: NetbootStore) -> bytes:
    """Read the server's DUID; the first time, make it: a replaced disk is another server."""
    with store.transaction() as db:
        found = db.execute("SELECT duid FROM server6").fetchone()
        if found is not None:
            return bytes(found[0])
        made = uuid_duid(uuid.uuid4().bytes)
        db.execute("INSERT INTO server6 (duid) VALUES (?)", (made,))
    return made


def load_leases6(store: NetbootStore) -> tuple[Lease6, ...]:
    """Read every row for the engine; SiteError when one cannot be read."""
    rows = store.rows(f"SELECT {_COLUMNS} FROM leases6")
    try:
        return tuple(
            Lease6(
                address=IPv6Address(address),
                subnet=subnet,
                duid=duid,
                iaid=iaid,
                mac=mac,
                uuid=box,
                state=LeaseState(state),
                expires=expires,
                name=name,
            )
            for address, subnet, duid, iaid, mac, box, state, expires, name in rows
        )
    except ValueError as error:
        raise SiteError(f"netboot.db: table leases6: {error}") from error


def current_leases6(store: NetbootStore, now: float) -> tuple[Lease6, ...]:
    """Read the leases in force, by address; SiteError."""
    bound = (lease for lease in load_leases6(store) if lease.is_bound(now))
    return tuple(sorted(bound, key=lambda lease: lease.address))


def holder6(store: NetbootStore, address: IPv6Address) -> bytes | None:
    """Give the MAC of the box that has this address, or has released it.

    UEFI firmware releases its address before it fetches its loader from there.
    """
    rows = store.rows(
        "SELECT duid, mac FROM leases6 WHERE address = ? AND state != 'declined'", (str(address),)
    )
    return (rows[0][1] or duid_mac(rows[0][0])) if rows else None
