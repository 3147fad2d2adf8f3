"""Secrets with a TTL, the site's certificate authorities and the sealed hand-over."""
