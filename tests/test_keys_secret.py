"""A Secret shows nothing by any of the ways in which values get shown by accident."""

import copy
import json
import logging
import pickle
import traceback

import pytest

from keys.secret import Secret

VALUE = b"CANARY-secret"


def ways():
    secret = Secret(VALUE)
    holder = {"a": [secret]}
    yield repr(secret)
    yield str(secret)
    yield f"{secret}"
    yield f"{secret:>40}"
    yield f"{secret!r:s}"
    yield "%s" % secret  # noqa: UP031 - that way too
    yield f"{holder}"
    yield str(logging.makeLogRecord({"msg": "%s", "args": (secret,)}).getMessage())
    try:
        raise ValueError(secret)
    except ValueError:
        yield traceback.format_exc()


@pytest.mark.parametrize("shown", list(ways()))
def test_nothing_is_shown(shown):
    assert "CANARY" not in shown
    assert "Secret(hidden)" in shown


@pytest.mark.parametrize(
    "write", [pickle.dumps, copy.copy, copy.deepcopy, json.dumps, bytes, hash, vars]
)
def test_it_is_not_written_elsewhere(write):
    with pytest.raises(TypeError) as refused:
        write(Secret(VALUE))
    assert "CANARY" not in str(refused.value)


def test_it_gives_back_what_it_took():
    assert Secret(VALUE).reveal() == VALUE
    assert len(Secret(VALUE)) == len(VALUE)
    assert Secret(VALUE) == Secret(bytearray(VALUE))
    assert Secret(VALUE) != Secret(b"other")
    assert Secret(VALUE) != VALUE
