"""Runs in Keylime's own environment and times Keylime's functions; it imports nothing of ours.

Called with a file of quotes and logs (`tests.bench.boxes.dump`). A line in is a job as JSON, a line
out its answer: processor time per call in seconds, children's too, and what Keylime found. The
functions are those that Keylime's verifier calls for each box; its logging is off.
"""

import base64
import itertools
import json
import logging
import resource
import struct
import sys
import time
from pathlib import Path

from keylime.mba import mba
from keylime.tpm import tpm_util

logging.disable(logging.CRITICAL)
mba.load_imports(skip_custom_policies=True)
CASES = json.loads(Path(sys.argv[1]).read_text())
SECRET = bytes(32)
REFERENCE = '{"firmware": "any"}'


def pcr_blob(values):
    """Give PCR 0 to 15 as tpm2-tools keeps them: C structures, little-endian."""
    selection = struct.pack("<HB3sxx", 0x000B, 3, b"\xff\xff\0") + bytes(8) * 15
    lists = [values[:8], values[8:]]
    digests = b"".join(
        struct.pack("<I", 8) + b"".join(struct.pack("<H64s", 32, value) for value in some)
        for some in lists
    )
    return struct.pack("<I", 1) + selection + struct.pack("<I", len(lists)) + digests


def prepared(quote):
    """Decode what the wire would bring as bytes."""
    return {
        "aikblob": quote["key"].encode(),
        "nonce": bytes.fromhex(quote["nonce"]),
        "sigblob": bytes.fromhex(quote["signature"]),
        "quoteblob": bytes.fromhex(quote["attest"]),
        "pcrblob": pcr_blob([bytes.fromhex(value) for value in quote["values"]]),
        "exp_hash_alg": "sha256",
    }


QUOTES = {
    name: itertools.cycle([prepared(quote) for quote in some])
    for name, some in CASES["quotes"].items()
}
LOGS = {
    count: base64.b64encode(bytes.fromhex(data)).decode() for count, data in CASES["logs"].items()
}
EK, AK_NAME = bytes.fromhex(CASES["ek"]), bytes.fromhex(CASES["ak_name"])


def check_quote(name):
    return tpm_util.checkquote(**next(QUOTES[name]))


def read_log(count):
    pcrs, aggregates, data, failure = mba.bootlog_parse(LOGS[count], "sha256")
    if failure or not aggregates:
        raise ValueError(f"Keylime does not take the log of {count} events")
    return pcrs, data


def judge(count):
    """Challenge the EK, check the quote, replay the log and hold it against a policy."""
    tpm_util.makecredential(EK, SECRET, AK_NAME)
    quoted = check_quote(f"P-256 {count}")
    pcrs, data = read_log(count)
    for index, value in pcrs.items():
        if int(quoted[int(index)], 16) != value:
            raise ValueError(f"PCR {index} is not that of the log")
    if mba.bootlog_evaluate(REFERENCE, data, set(quoted), "box"):
        raise ValueError("Keylime's policy refuses the log")
    return {str(index): value for index, value in quoted.items()}


def replayed(count):
    return {index: f"{value:064x}" for index, value in read_log(count)[0].items()}


WORK = {"quote": check_quote, "log": replayed, "verdict": judge}


def used():
    """Give the processor time of this process and of its children that ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


for line in sys.stdin:
    job = json.loads(line)
    work, of, times = WORK[job["work"]], job["of"], job["times"]
    begun = used()
    for _ in range(times):
        found = work(of)
    answer = {"seconds": (used() - begun) / times, "found": found}
    print(json.dumps(answer), flush=True)
