"""DHCP, TFTP, HTTP boot, the site's DNS and boot sets: what a box meets before it has proved anything."""
