"""DHCP, TFTP, HTTP boot, DNS, boot sets: what a box meets before it has proved anything."""
