"""Measurement lists of real kernels, against the PCR values that the TPMs held afterwards."""

from pathlib import Path

import pytest

from attest.evidence import Outcome
from attest.ima import SHA1_PADDED, check_ima, replay_ima
from attest.imalog import ImaForm, decode_ima
from attest.reasons import Reason

pytestmark = pytest.mark.evidence

NAMES = ("base", "t13", "uki_pxe")
ENTRIES = {"base": 10, "t13": 5, "uki_pxe": 10}
# Debian 12's kernel has no SHA-384 and SHA-512 yet when IMA starts.
PADDED = {("base", "sha384"), ("base", "sha512")}


def held(evidence: Path, name: str) -> dict[str, dict[int, bytes]]:
    values: dict[str, dict[int, bytes]] = {}
    for line in (evidence / "boots" / f"{name}.pcrs").read_text().splitlines():
        bank, pcr, value = line.split()
        values.setdefault(bank, {})[int(pcr)] = bytes.fromhex(value)
    return values


def sent(evidence: Path, name: str) -> bytes:
    return (evidence / "boots" / f"{name}.ima.bin").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_bank_replays(evidence: Path, name: str) -> None:
    log = decode_ima(sent(evidence, name))
    assert log.form is ImaForm.BINARY
    for bank, values in held(evidence, name).items():
        reached = list(replay_ima(log, bank, padded=(name, bank) in PADDED))
        assert reached.index(values[10]) == ENTRIES[name], bank


@pytest.mark.parametrize("name", NAMES)
def test_each_list_is_explained_by_its_own_modules_alone(evidence: Path, name: str) -> None:
    data, values = sent(evidence, name), held(evidence, name)
    loaded = [entry.file for entry in decode_ima(data).entries[1:]]
    modules = tuple({file.algorithm: file.digest} for file in loaded if file is not None)
    found = check_ima(data, values, modules, secure_boot=True)
    assert found.findings == ()
    assert found.outcome is Outcome.EQUAL
    assert found.proved == ENTRIES[name] == 1 + len(modules)
    padded = sorted(bank for one, bank in PADDED if one == name)
    assert found.workarounds == tuple(f"{SHA1_PADDED} {bank}" for bank in padded)
    less = check_ima(data, values, modules[1:], secure_boot=True)
    assert [each.reason for each in less.findings] == [Reason.MODULE_UNKNOWN]
    assert "'/lib/modules/" in less.findings[0].detail


def test_no_list_fits_another_boot(evidence: Path) -> None:
    for name in NAMES:
        for other in NAMES:
            if other != name:
                found = check_ima(sent(evidence, name), held(evidence, other), (), secure_boot=True)
                assert [each.reason for each in found.findings] == [Reason.IMA_REPLAY]
