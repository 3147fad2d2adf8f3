"""What upstreams gave and withdrew, by secret and source: the floors that no upstream goes below.

Rows of keys.db's table `upstream`; the caller holds the transaction. It keeps no value: of the
newest one an HMAC under the cache key, so that another value under the same version is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keys.io.store import Store
from keys.rules import SecretRule, may_be_stale


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of one secret from one source.

    `version` is the upstream's own number, 0 when it never gave one; `held` is the number that its
    value has here. `seen`: unix seconds at which the upstream last confirmed the value. `gone` is
    404 or 403 since `gone_since`.
    """

    version: int = 0
    digest: bytes = b""
    held: int = 0
    seen: float = 0.0
    gone: int | None = None
    gone_since: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """The rows of the table."""

    store: Store

    def of(self, name: str, source: str) -> Origin | None:
        """Find the row of a secret from a source."""
        query = (
            "SELECT version, digest, held, seen, gone, gone_since FROM upstream"
            " WHERE name=? AND source=?"
        )
        found = self.store.execute(query, name, source).fetchone()
        if found is None:
            return None
        version, digest, held, seen, gone, gone_since = found
        return Origin(
            version=version, digest=digest, held=held, seen=seen, gone=gone, gone_since=gone_since
        )

    def keep(self, name: str, source: str, one: Origin) -> None:
        """Write the row of a secret from a source."""
        values = (one.version, one.digest, one.held, one.seen, one.gone, one.gone_since)
        query = "INSERT OR REPLACE INTO upstream VALUES(?,?,?,?,?,?,?,?)"
        self.store.execute(query, name, source, *values)

    def lift(self, name: str) -> bool:
        """Forget that a secret was withdrawn, not its floor; False when it was not."""
        query = "UPDATE upstream SET gone=NULL, gone_since=NULL WHERE name=? AND gone IS NOT NULL"
        return self.store.execute(query, name).rowcount > 0

    def about(self, rule: SecretRule, now: float) -> dict[str, Any]:
        """Say of a secret where it comes from, and whether what is here may be stale; no value."""
        if not rule.source:
            return {"source": None}
        found = self.of(rule.name, rule.source) or Origin()
        gone = found.gone and {"status": found.gone, "since": found.gone_since}
        return {
            "source": rule.source,
            "upstream_version": found.version or None,
            "seen": found.seen or None,
            "maybe_stale": bool(found.seen) and may_be_stale(found.seen, rule, now),
            "gone": gone or None,
        }
