"""Secrets with a TTL, the site's certificate authorities, signed documents and the sealed hand-over."""
