"""Kill -9 at random moments: what was answered is there afterwards."""

import os
import random
import signal
from threading import Timer

from keys_site import KeysSite, request

from keys.envelope import b64u
from keys.io.rpc import RpcUnavailableError

ROUNDS = 6
HANDOVERS_A_ROUND = 9


class Acknowledged:
    """What the process said it did."""

    def __init__(self):
        self.version = 0
        self.withdrawn = []
        self.answers = []
        self.open = None

    def work(self, site, start):
        """Put, withdraw and hand over until the process is gone."""
        for number in range(start, start + 100_000):
            put = site.operator("secret_put", name="pos-api-token", value=b64u(b"%d" % number))
            self.version = put["version"]
            digest = b"%032d" % number
            site.operator("withdraw", boot_set=b64u(digest))
            self.withdrawn.append(digest.hex())
            if number < start + HANDOVERS_A_ROUND:
                self.open = request(reset_count=number)
                self.answers.append((self.open, site.control("handover", **self.open)))
                self.open = None


def kill_while_working(site, said, start):
    timer = Timer(random.uniform(0.005, 0.25), os.kill, (site.child, signal.SIGKILL))
    timer.start()
    try:
        said.work(site, start)
    except RpcUnavailableError:
        pass
    finally:
        timer.join()
        os.waitpid(site.child, 0)
        site.child = 0


def test_what_was_answered_is_there_after_a_kill():
    site = KeysSite().ready()
    said = Acknowledged()
    try:
        for number in range(ROUNDS):
            kill_while_working(site, said, (number + 1) * 1_000_000)
            site.start()
            check(site, said)
        assert said.version > ROUNDS
        assert said.withdrawn
        assert said.answers
    finally:
        site.close()


def check(site, said):
    listed = {one["name"]: one for one in site.operator("secret_list")["secrets"]}
    found = listed["pos-api-token"]
    if said.version:
        assert found["version"] in (said.version, said.version + 1)
        assert found["reason"] is None
    status = site.operator("status")
    assert set(said.withdrawn) <= set(status["withdrawn"])
    for asked, answer in said.answers:
        assert site.control("handover", **asked) == answer
    if said.open is not None:
        said.answers.append((said.open, site.control("handover", **said.open)))
        said.open = None
    numbers, after = [], 0
    while page := site.operator("events", after=after, limit=1000)["events"]:
        numbers += [one["n"] for one in page]
        after = numbers[-1]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= status["last_event"]
