"""The command line: fast to start, one sentence for each error, exit codes that mean something."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bootstrap.cli.common import plain
from bootstrap.cli.main import COMMANDS, main
from bootstrap.io import site_dir
from bootstrap.published import Published, decode_published
from bootstrap.rehearsal.record import CONTEXT, RehearsalRecord, core_digest
from netboot.bootset import SIGNATURE_CONTEXT, BootSetManifest, Role, anchor_cpio, grub_cfg
from netboot.io.bootsets import REHEARSAL, REHEARSAL_SIGNATURE, SIGNATURE, BootSetStore


def doorstep(*arguments: object, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], input=given)


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    made = doorstep("init", tmp_path / "site", "--id", "shop-1", "--network", "10.77.0.0/24")
    assert made.exit_code == 0, made.output
    places = {"--site": "site", "--state": "state", "--run": "run"}
    return [word for name, path in places.items() for word in (name, str(tmp_path / path))]


def test_help_lists_every_command() -> None:
    command = [sys.executable, "-c", "from bootstrap.cli.main import main; main()", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, entry in COMMANDS.items():
        assert (entry.line in done.stdout) is not entry.hidden, name


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom bootstrap.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'pydantic', 'cryptography', 'jinja2', 'flask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_of_the_table_loads_and_explains_itself(name: str) -> None:
    shown = doorstep(name, "--help")
    assert shown.exit_code == 0
    assert "Usage:" in shown.output
    command = main.get_command(None, name)
    for sub in getattr(command, "commands", {}):
        assert doorstep(name, sub, "--help").exit_code == 0, sub


READING = ["check", "services", "events", "box list", "box show", "secret list", "bootset list"]


@pytest.mark.parametrize("words", [*READING, "bootset predict", "rehearse"])
def test_what_only_reads_can_print_json(words: str) -> None:
    assert "--json" in doorstep(*words.split(), "--help").output


def test_unknown_words_are_wrong_usage() -> None:
    for words in (
        ["nothing"],
        ["box", "nothing"],
        ["check", "--nothing"],
        ["rehearse", "--via", "usb"],
    ):
        found = doorstep(*words)
        assert found.exit_code == 2, words
        assert "Usage:" in found.output


def test_init_says_what_comes_next_and_does_not_overwrite(tmp_path: Path) -> None:
    first = doorstep("init", tmp_path / "site")
    assert first.exit_code == 0
    assert "What comes next" in first.output
    again = doorstep("init", tmp_path / "site")
    assert (again.exit_code, again.output) == (
        2,
        f"Error: {tmp_path / 'site' / 'site.toml'} exists: choose another directory\n",
    )


@pytest.mark.parametrize("network", ["10.0.0.1/24", "x", "10.0.0.0/30"])
def test_init_refuses_a_network_that_is_none(tmp_path: Path, network: str) -> None:
    found = doorstep("init", tmp_path / "site", "--network", network)
    assert found.exit_code == 2
    assert "network" in found.output
    assert not (tmp_path / "site").exists()


def test_check_says_no_with_exit_code_1(options: list[str]) -> None:
    assert doorstep("check", *options).output.endswith("shop-1 is in order\n")
    path = Path(options[1]) / "site.toml"
    path.write_text(path.read_text().replace("title", "titel").replace('"12h"', '"12"'))
    found = doorstep("check", *options)
    assert found.exit_code == 1
    assert "site.toml: site.titel: is an unknown key: did you mean title?" in found.output
    assert found.output.endswith("the site: 3 errors\n")
    document = json.loads(doorstep("check", "--json", *options).stdout)
    assert document["ok"] is False
    assert {one["key"] for one in document["problems"]} == {
        "site.title",
        "site.titel",
        "subnet.tills.lease",
    }


def test_note_and_root_are_signed_again(options: list[str]) -> None:
    assert doorstep("note", "sign", *options).output.endswith("with counter 2\n")
    stick = Path(options[1]).parent / "stick"
    (Path(options[1]) / "offline").rename(stick)
    missing = doorstep("note", "sign", *options)
    assert missing.exit_code == 2
    assert "--offline" in missing.output
    assert doorstep("note", "sign", "--offline", stick, *options).exit_code == 0
    assert doorstep("ca", "root", "--offline", stick, *options).exit_code == 0
    assert doorstep("check", *options).exit_code == 0


@pytest.mark.parametrize(
    "words", ["box list", "box show x", "events", "secret list", "ca sign", "box refuse x --yes"]
)
def test_a_site_that_does_not_run_is_said_in_one_sentence(options: list[str], words: str) -> None:
    found = doorstep(*words.split(), *options)
    assert found.exit_code == 2
    assert found.output.startswith("Error: no answer from ")
    assert found.output.count("\n") == 1


def test_services_of_a_site_that_does_not_run(options: list[str]) -> None:
    found = doorstep("services", "--json", *options)
    assert found.exit_code == 1
    listed = json.loads(found.stdout)["services"]
    assert [one["name"] for one in listed] == ["control", "enroll", "page", "nginx"]
    assert not any(one["ok"] for one in listed)


def test_a_secret_is_taken_from_standard_input_alone(options: list[str]) -> None:
    found = doorstep("secret", "put", "pos-api-token", "canary-7", *options)
    assert found.exit_code == 2
    assert "standard input" in found.output
    assert "canary-7" not in found.output
    for empty in ("", "\n"):
        found = doorstep("secret", "put", "pos-api-token", *options, given=empty)
        assert found.exit_code == 2
        assert "is empty" in found.output
    found = doorstep("secret", "put", "pos-api-token", *options, given="x" * 70000)
    assert found.exit_code == 2
    assert "larger than" in found.output


@pytest.mark.parametrize(
    ("users", "says"), [("netboot=1", "exactly these"), ("x", "cannot read"), (None, "sysusers")]
)
def test_services_need_their_users(options: list[str], users: str | None, says: str) -> None:
    more = ["--users", users] if users else []
    found = doorstep("run", *options, *more)
    assert found.exit_code == 2
    assert says in found.output


def test_text_from_a_box_cannot_move_the_terminal() -> None:
    assert plain("a\x1b[2Jb\nc\u202e") == "a?[2Jb?c?"
    assert (plain(None), plain(""), plain(0)) == ("-", "-", "0")


def stored_set(options: list[str], *, name: str, version: int, root: bytes | None = None) -> bytes:
    """Put a signed set of small files into the store, as `bootset build` does with real ones."""
    directory, state = Path(options[1]), Path(options[3])
    store, site = BootSetStore(state / "bootsets"), site_dir.load(directory)
    anchor = anchor_cpio(
        site_root_pem=root or (directory / "trust" / "root.pem").read_bytes(),
        site_id=site.site.id,
        server_name=site.server_name,
        release="test",
    )
    roles = {
        role: store.add_file(
            anchor if role is Role.ANCHOR else f"{role.value} {version}".encode(),
            f"{role.value}.img",
        )
        for role in Role
    }
    manifest = BootSetManifest(name=name, version=version, created=0, release="test", roles=roles)
    digest = store.add_set(manifest)
    signed = site_dir.sign_document(
        directory, manifest.encode(), manifest.signature_comment, SIGNATURE_CONTEXT
    )
    store.put(digest, SIGNATURE, signed)
    return digest


def rehearsed(options: list[str], digest: bytes) -> None:
    """Sign a record of a rehearsal, which a real one writes after a measured boot."""
    store = BootSetStore(Path(options[3]) / "bootsets")
    core = core_digest(store.manifest(digest))
    record = RehearsalRecord(core=core, at=0, bank="sha256", pcrs={}).encode()
    store.put(digest, REHEARSAL, record)
    signed = site_dir.sign_document(Path(options[1]), record, "test", CONTEXT)
    store.put(digest, REHEARSAL_SIGNATURE, signed)


def published(options: list[str]) -> Published:
    return decode_published((Path(options[3]) / "bootsets" / "published.json").read_bytes())


def test_publishing_needs_signature_rehearsal_and_the_own_root(options: list[str]) -> None:
    digest = stored_set(options, name="enrol", version=1)
    short = digest.hex()[:12]
    found = doorstep("bootset", "publish", short, *options)
    assert found.exit_code == 2
    assert f"was never rehearsed: run `doorstep bootset rehearse {short}`" in found.output
    rehearsed(options, digest)
    signature = Path(options[3]) / "bootsets" / "sets" / digest.hex() / SIGNATURE
    kept = signature.read_bytes()
    signature.unlink()
    assert "is not signed" in doorstep("bootset", "publish", short, *options).output
    signature.write_bytes(kept.replace(b"\ntrusted comment: ", b"\ntrusted comment: x"))
    assert doorstep("bootset", "publish", short, *options).exit_code == 2
    signature.write_bytes(kept)
    assert doorstep("bootset", "publish", short, *options).exit_code == 0
    assert doorstep("ca", "root", *options).exit_code == 0
    stranger = doorstep("bootset", "publish", short, *options)
    assert stranger.exit_code == 2
    assert "build it again" in stranger.output


def test_a_set_is_published_replaced_and_withdrawn(options: list[str]) -> None:
    first = stored_set(options, name="enrol", version=1)
    second = stored_set(options, name="enrol", version=2)
    for digest in (first, second):
        rehearsed(options, digest)
    assert doorstep("bootset", "publish", first.hex()[:12], *options).exit_code == 0
    store, site = BootSetStore(Path(options[3]) / "bootsets"), site_dir.load(Path(options[1]))
    config = grub_cfg(store.manifest(first), site.subnets[0].appliance)
    assert store.file(sha256(config).digest()).read_bytes() == config
    assert doorstep("bootset", "publish", "enrol", *options).exit_code == 0
    (served,) = published(options).served
    assert served is not None
    assert served.digest == second
    rows = json.loads(doorstep("bootset", "list", "--json", *options).stdout)["sets"]
    assert {(row["version"], row["state"], row["rehearsed"]) for row in rows} == {
        (1, "accepted", True),
        (2, "served", True),
    }
    assert doorstep("check", *options).exit_code == 0
    assert doorstep("bootset", "withdraw", second.hex()[:12], *options).exit_code == 0
    assert published(options).served == ()
    back = doorstep("bootset", "publish", second.hex()[:12], *options)
    assert back.exit_code == 2
    assert "was withdrawn" in back.output
    assert "no boot set 'other'" in doorstep("bootset", "publish", "other", *options).output
    assert doorstep("bootset", "publish", "enrol", "--keep", "x", *options).exit_code == 2
