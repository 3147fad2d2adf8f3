"""Reading a secret's value: from standard input or typed unseen, never from the command line."""

from __future__ import annotations

import sys

import click

MAX_SECRET = 64 * 1024


def no_value_here(value: tuple[str, ...], command: str) -> None:
    """Refuse a value among the arguments; UsageError says where it belongs."""
    if value:
        raise click.UsageError(
            "a value on the command line is seen by every process and kept by the shell: "
            f"give it on standard input, as in `{command} < FILE`, and change it"
        )


def read_value(name: str, command: str, *, keep_newline: bool) -> bytes:
    """Read the value of a secret; UsageError when there is none or it is too large.

    One line's end at its end is left away, unless it is to be kept.
    """
    return check_value(read_input(name), name, command, keep_newline=keep_newline)


def check_value(data: bytes, name: str, command: str, *, keep_newline: bool) -> bytes:
    """Give the value of what was read; UsageError as `read_value`."""
    if not keep_newline:
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data:
        raise click.UsageError(
            f"standard input is empty: give the value of {name} there, as in `{command} < FILE`"
        )
    if len(data) > MAX_SECRET:
        raise click.UsageError(f"the value of {name} is larger than {MAX_SECRET // 1024} KiB")
    return data


def read_input(name: str) -> bytes:
    """Read standard input; a person at a terminal types it unseen, twice."""
    if sys.stdin is not None and sys.stdin.isatty():
        typed = click.prompt(f"Value of {name}", hide_input=True, confirmation_prompt=True)
        return str(typed).encode()
    return sys.stdin.buffer.read(MAX_SECRET + 3) if sys.stdin is not None else b""
