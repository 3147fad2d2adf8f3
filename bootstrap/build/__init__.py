"""Building boot sets: packages by exact version and digest, the generic initrd, the ISO."""
