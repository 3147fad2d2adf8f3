"""The rehearsal: virtual boxes with real firmware on a LAN of their own, before anybody travels."""
