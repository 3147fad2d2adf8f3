"""Sockets, files, databases, clocks and TPMs of this package; the only place that has them."""
