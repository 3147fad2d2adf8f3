"""Where a site keeps its things and as whom each process runs.

Every process of the appliance is given one `Layout` on its command line. It never creates anything.
"""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keys.errors import SiteError

SERVICES = ("netboot", "enroll", "control", "keys", "page", "nginx", "watch", "sync")
REHEARSAL_MARK = "rehearsal"
"""A file in STATE that says that it belongs to a rehearsal."""
OPERATOR = "operator"
"""What uid 0 is called in the tables of method by user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The directories of one site, and the uid of each service.

    `kernel` is below which the kernel shows itself in proc and sys.
    """

    site: Path
    state: Path
    run: Path
    users: Mapping[str, int]
    kernel: Path = Path("/")

    def socket(self, service: str) -> Path:
        """Path of a service's UNIX socket; each service has its own directory to bind in."""
        return self.run / service / "socket"

    def user_name(self, uid: int) -> str | None:
        """Name the service behind a uid; None for a stranger."""
        if uid == 0:
            return OPERATOR
        return next((name for name, known in self.users.items() if known == uid), None)


def users_from_passwd() -> dict[str, int]:
    """Find `doorstep-<service>` for every service; SiteError names the first that is missing."""
    users = {}
    for service in SERVICES:
        try:
            users[service] = pwd.getpwnam(f"doorstep-{service}").pw_uid
        except KeyError:
            raise SiteError(
                f"user doorstep-{service} does not exist: "
                "run `systemd-sysusers systemd/doorstep-sysusers.conf`"
            ) from None
    return users


def users_from_text(text: str) -> dict[str, int]:
    """Read `netboot=61001,enroll=61002,…`; SiteError when a service is missing or unknown."""
    try:
        users = {name: int(uid) for name, uid in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise SiteError(f"--users: cannot read {text!r}; expected name=uid,name=uid") from None
    if set(users) != set(SERVICES):
        raise SiteError(f"--users: exactly these must be given: {', '.join(SERVICES)}")
    return users
