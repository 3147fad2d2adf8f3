"""A client that asks over and over and says when the first good answer came.

A program of its own, to be run in a network namespace: `python -m tests.bench.probe dhcp IFACE`
until an offer comes (no lease is taken), `… tls ROOT NAME STATUS:METHOD:HOST:PORT/PATH…` until
every one of these has answered with the site's certificate and this status. It prints the
monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import http.client
import secrets
import selectors
import socket
import ssl
import sys
import time

from bootstrap.io.nginx import MEDIA_TYPE
from netboot.dhcp_message import BROADCAST_FLAG, CLIENT_PORT, SERVER_PORT, Message
from netboot.dhcp_options import Code, MessageType, Options
from netboot.errors import NetbootError

EVERY_SECONDS = 0.05
TLS_EVERY_SECONDS = 0.12
"""Slower than the site's limit of requests from one address."""
GIVE_UP_SECONDS = 90.0
_BODY = "{}"
_MAC = bytes.fromhex("525400d001ff")


def ask_dhcp(interface: str, deadline: float) -> bool:
    """Send DISCOVERs on an interface without an address until an OFFER comes."""
    xid = secrets.randbits(32)
    items = ((Code.MESSAGE_TYPE, bytes((MessageType.DISCOVER,))),)
    discover = Message(
        op=1, xid=xid, chaddr=_MAC, flags=BROADCAST_FLAG, options=Options(items=items)
    ).encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.bind(("0.0.0.0", CLIENT_PORT))
        while time.monotonic() < deadline:
            sock.sendto(discover, ("255.255.255.255", SERVER_PORT))
            if _offered(sock, xid):
                return True
    return False


def _offered(sock: socket.socket, xid: int) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        end = time.monotonic() + EVERY_SECONDS
        while (left := end - time.monotonic()) > 0:
            if not selector.select(left):
                return False
            with contextlib.suppress(NetbootError):
                if Message.decode(sock.recv(2048)).xid == xid:
                    return True
    return False


def ask_tls(root: str, name: str, targets: list[str], deadline: float) -> bool:
    """Ask each target in turn until it has answered."""
    context = ssl.create_default_context(cafile=root)
    waiting = list(targets)
    while waiting and time.monotonic() < deadline:
        if _answers(context, name, waiting[0]):
            waiting.pop(0)
        else:
            time.sleep(TLS_EVERY_SECONDS)
    return not waiting


def _answers(context: ssl.SSLContext, name: str, target: str) -> bool:
    status, method, host, rest = target.split(":")
    port, _, path = rest.partition("/")
    head = f"{method} /{path} HTTP/1.0\r\nHost: {name}\r\nContent-Type: {MEDIA_TYPE}\r\n"
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            tls.sendall(f"{head}Content-Length: {len(_BODY)}\r\n\r\n{_BODY}".encode())
            response = http.client.HTTPResponse(tls)
            response.begin()
            return response.status == int(status)
    except (OSError, http.client.HTTPException):
        return False


def main() -> None:
    """Ask as the arguments say; exit code 1 when nothing came."""
    kind, *arguments = sys.argv[1:]
    deadline = time.monotonic() + GIVE_UP_SECONDS
    if kind == "dhcp":
        good = ask_dhcp(arguments[0], deadline)
    else:
        good = ask_tls(arguments[0], arguments[1], arguments[2:], deadline)
    if not good:
        sys.exit(f"no answer to {' '.join(sys.argv[1:])} in {GIVE_UP_SECONDS:.0f} s")
    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
