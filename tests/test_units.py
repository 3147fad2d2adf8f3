"""The systemd units as files: systemd-analyze's word on them, and who owns what they may write."""

import configparser
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from bootstrap.io.supervisor import RIGHTS, directories
from keys.io.layout import SERVICES, Layout

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "systemd"
SERVICE_UNITS = {name: UNITS / f"doorstep-{name}.service" for name in SERVICES}
EXPOSURE = {
    "keys": 7,
    "control": 6,
    "enroll": 6,
    "page": 6,
    "nginx": 17,
    "netboot": 19,
    "watch": 19,
    "sync": 14,
}
"""Highest exposure that systemd-analyze may find, in tenths."""
COMMAND = Path("opt/doorstep/bin/doorstep")


class _Section(dict):
    """Values of a section; a key that comes twice adds a line, as systemd reads it."""

    def __setitem__(self, key, value):
        if key in self and isinstance(value, list):
            value = self[key] + value
        super().__setitem__(key, value)


def unit(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, dict_type=_Section, delimiters=("=",))
    parser.optionxform = str
    parser.read(path)
    return parser


def words(path: Path, key: str) -> list[str]:
    return unit(path)["Service"].get(key, "").split()


def tmpfiles() -> dict[str, tuple[int, str, str]]:
    """Give mode, user and group of every directory."""
    found = {}
    for line in (UNITS / "doorstep-tmpfiles.conf").read_text().splitlines():
        if not line.startswith("#"):
            kind, path, mode, user, group, _ = line.split()
            assert kind == "d"
            found[path] = (int(mode, 8), user, group)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Give a root with our units, the targets they hang on and an executable in our place."""
    root = tmp_path_factory.mktemp("root")
    target = root / "etc/systemd/system"
    target.mkdir(parents=True)
    for pattern in (UNITS.glob("*.service"), UNITS.glob("*.target")):
        for path in pattern:
            shutil.copy(path, target)
    for path in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(path, target)
    (root / COMMAND).parent.mkdir(parents=True)
    shutil.copy("/bin/true", root / COMMAND)
    return root


def verify(root: Path, name: str) -> str:
    """Give what systemd-analyze says of a unit; its exit status says nothing of a typing error."""
    command = ["systemd-analyze", "verify", "--man=no", f"--root={root}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", [*(f"doorstep-{one}.service" for one in SERVICES), "doorstep.target"]
)
def test_systemd_finds_nothing_to_say(installed, name):
    assert verify(installed, name) == ""


def test_a_mistyped_key_would_be_found(installed, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(installed, root)
    path = root / "etc/systemd/system/doorstep-keys.service"
    path.write_text(path.read_text().replace("PrivateNetwork", "PrivatNetwork"))
    assert "PrivatNetwork" in verify(root, "doorstep-keys.service")


def test_an_absent_command_would_be_found(installed, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(installed, root)
    (root / COMMAND).unlink()
    assert "is not executable" in verify(root, "doorstep-keys.service")


def exposure(path: Path, threshold: int) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}"]
    return subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SERVICES)
def test_exposure_stays_below_its_bound(name):
    done = exposure(SERVICE_UNITS[name], EXPOSURE[name])
    assert done.returncode == 0, done.stdout.splitlines()[-1:]


def test_an_open_unit_exceeds_the_bound(tmp_path):
    text = SERVICE_UNITS["keys"].read_text()
    path = tmp_path / "doorstep-keys.service"
    path.write_text(re.sub(r"^PrivateNetwork=.*\n|^ProtectSystem=.*\n", "", text, flags=re.M))
    assert exposure(path, EXPOSURE["keys"]).returncode != 0


def test_there_is_one_unit_for_each_service_and_the_target_wants_it():
    assert {path.name for path in UNITS.glob("*.service")} == {
        path.name for path in SERVICE_UNITS.values()
    }
    wanted = re.findall(r"^Wants=(.*)$", (UNITS / "doorstep.target").read_text(), flags=re.M)
    assert sorted(" ".join(wanted).split()) == sorted(path.name for path in SERVICE_UNITS.values())


@pytest.mark.parametrize("name", SERVICES)
def test_each_service_has_a_user_of_its_own(name):
    lines = (UNITS / "doorstep-sysusers.conf").read_text().splitlines()
    users = {line.split()[1] for line in lines if line.startswith("u ")}
    assert users == {f"doorstep-{one}" for one in SERVICES}
    section = unit(SERVICE_UNITS[name])["Service"]
    assert section["User"] == section["Group"] == f"doorstep-{name}"
    assert section["ExecStart"] == f"/{COMMAND} service {name}"


@pytest.mark.parametrize("name", SERVICES)
def test_no_root_no_new_rights_and_none_but_those_of_doorstep_run(name):
    path = SERVICE_UNITS[name]
    wanted = sorted(f"CAP_{right.upper()}" for right in RIGHTS.get(name, ()))
    assert sorted(words(path, "CapabilityBoundingSet")) == wanted
    assert sorted(words(path, "AmbientCapabilities")) == wanted
    for key in ("NoNewPrivileges", "ProtectHome", "RestrictSUIDSGID"):
        assert unit(path)["Service"][key] == "yes"
    if name == "keys":
        assert words(path, "DeviceAllow") == ["/dev/tpmrm0", "rw"]
        assert words(path, "DevicePolicy") == ["closed"]
        assert words(path, "SupplementaryGroups") == ["tss"]
    else:
        assert unit(path)["Service"]["PrivateDevices"] == "yes"
        assert words(path, "SupplementaryGroups") == []
    assert unit(path)["Service"]["ProtectSystem"] == "strict"


@pytest.mark.parametrize("name", ["keys", "control", "enroll", "page"])
def test_who_has_no_business_with_the_network_has_none(name):
    section = unit(SERVICE_UNITS[name])["Service"]
    assert (section["PrivateNetwork"], section["RestrictAddressFamilies"]) == ("yes", "AF_UNIX")


@pytest.mark.parametrize("name", SERVICES)
def test_it_starts_again_for_ever_and_waits_for_no_network(name):
    parser = unit(SERVICE_UNITS[name])
    assert parser["Service"]["Restart"] == "always"
    assert parser["Unit"]["StartLimitIntervalSec"] == "0"
    assert "network-online" not in SERVICE_UNITS[name].read_text()
    assert parser["Unit"]["PartOf"] == "doorstep.target"


@pytest.mark.parametrize("name", SERVICES)
def test_it_writes_its_own_directories_alone(name):
    known, mine = tmpfiles(), words(SERVICE_UNITS[name], "ReadWritePaths")
    assert mine
    for path in mine:
        assert known[path][1] == f"doorstep-{name}"
        below = [other for other in known if other.startswith(f"{path}/")]
        assert below == [], "it covers another's directory"
    owned = {path for path, (_, user, _) in known.items() if user == f"doorstep-{name}"}
    assert set(mine) == owned


def test_tmpfiles_makes_the_directories_of_doorstep_run():
    numbers = {name: 61001 + index for index, name in enumerate(SERVICES)}
    names = {number: f"doorstep-{name}" for name, number in numbers.items()} | {0: "root"}
    layout = Layout(
        site=Path("/etc/doorstep"),
        state=Path("/var/lib/doorstep"),
        run=Path("/run/doorstep"),
        users=numbers,
    )
    wanted = {
        str(one.path): (one.mode, names[one.uid], names[one.gid]) for one in directories(layout)
    }
    assert tmpfiles() == wanted


def documented() -> list[tuple[str, str, int]]:
    """Give path, owner and mode of each directory that docs/architecture.md gives both for."""
    found = []
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        match = re.match(r"(\w+)(?:, group (\w+),)? (\d{4})$", cells[1]) if len(cells) > 1 else None
        place = re.match(r"(STATE|RUN)/`([a-z]+)", cells[0])
        if match and place:
            base = {"STATE": "/var/lib/doorstep", "RUN": "/run/doorstep"}[place[1]]
            found.append((f"{base}/{place[2]}", match[1], int(match[3], 8)))
    return found


def test_tmpfiles_says_what_the_architecture_says():
    known, said = tmpfiles(), documented()
    assert {path for path, *_ in said} >= {
        *(f"/var/lib/doorstep/{name}" for name in ("netboot", "site", "evidence", "plan", "keys")),
        "/run/doorstep/tls",
    }
    for path, owner, mode in said:
        user = "root" if owner == "root" else f"doorstep-{owner}"
        assert known[path][:2] == (mode, user), path


@pytest.mark.boots
def test_sysusers_and_tmpfiles_do_as_written(tmp_path):
    for name in ("etc", "var/lib", "run"):
        (tmp_path / name).mkdir(parents=True)
    for command in (["systemd-sysusers"], ["systemd-tmpfiles", "--create"]):
        file = UNITS / f"doorstep-{command[0].removeprefix('systemd-')}.conf"
        subprocess.run([*command, f"--root={tmp_path}", str(file)], check=True)
    accounts = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    numbers = {account[0]: int(account[2]) for account in accounts} | {"root": 0}
    for path, (mode, user, _) in tmpfiles().items():
        found = (tmp_path / path.lstrip("/")).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid) == (mode, numbers[user]), path
