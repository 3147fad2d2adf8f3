"""Checking a whole site: everything that is wrong at once, each with file, key and remedy."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from attest.baseline import Baseline
from attest.firmwarefile import CONTEXT, encode_baseline
from bootstrap.check import SiteFiles, check
from bootstrap.errors import SiteError
from bootstrap.io import site_dir
from bootstrap.io.site_dir import NewSite
from bootstrap.published import Published
from bootstrap.site import Severity, Site, SiteFileError, decode_site
from keys import note
from keys.ca import load_certificate
from keys.manifest import verify

NEW = NewSite(
    id="shop-1",
    domain="shop-1.example.org",
    interface="eth7",
    network=IPv4Network("10.77.0.0/22"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made") / "site"
    site_dir.init(directory, NEW)
    return directory


@pytest.fixture(scope="module")
def site(made: Path) -> Site:
    return site_dir.load(made)


@pytest.fixture(scope="module")
def files(made: Path, site: Site) -> SiteFiles:
    return site_dir.gather(made, made / "state", site)


def test_a_new_site_is_in_order(made: Path, site: Site, files: SiteFiles) -> None:
    found = check(site, files)
    assert site_dir.errors_of(found) == []
    assert {one.severity for one in found} == {Severity.NOTE}
    assert site.site.id == "shop-1"
    assert site.subnets[0].appliance == IPv4Address("10.77.0.2")
    assert site.page.listen.address == IPv4Address("10.77.0.2")
    assert site.roles[0].addresses is not None
    assert site.roles[0].addresses.first == IPv4Address("10.77.0.20")
    for name in ("root.key", "sign.key"):
        assert (made / "offline" / name).stat().st_mode & 0o777 == 0o600
    assert (made / "offline").stat().st_mode & 0o777 == 0o700


def test_init_takes_an_address_and_never_overwrites(tmp_path: Path) -> None:
    directory = tmp_path / "site"
    new = replace(NEW, appliance=IPv4Address("10.77.0.9"), title='A "quoted" title')
    site_dir.init(directory, new)
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    site = site_dir.load(directory)
    assert site.site.title == 'A "quoted" title'
    assert str(site.page.listen) == "10.77.0.9:443"
    assert site.subnets[0].appliance == IPv4Address("10.77.0.9")
    with pytest.raises(SiteError, match=r"site\.toml exists"):
        site_dir.init(directory, NEW)
    (directory / "site.toml").unlink()
    with pytest.raises(SiteError, match=r"root\.key exists"):
        site_dir.init(directory, NEW)
    assert all(path.read_bytes() == data for path, data in before.items() if path.exists())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "Shop 1"}, r"site\.id"),
        ({"domain": "localhost"}, r"site\.domain"),
        ({"interface": "eth 0"}, "interface"),
        ({"network": IPv4Network("10.0.0.0/28")}, "/24 or larger"),
    ],
)
def test_init_refuses_what_would_not_work(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    with pytest.raises(SiteError, match=says):
        site_dir.init(tmp_path / "site", replace(NEW, **changes))
    assert not (tmp_path / "site").exists()


SETTINGS = [
    ("appliance =", "10.77.0.2", "10.77.9.2", "subnet.tills.appliance", "no host of"),
    ("gateway =", "10.77.0.1", "10.77.0.0", "subnet.tills.gateway", "no host of"),
    ("pool =", "10.77.0.100-10.77.0.199", "10.77.9.1-10.77.9.2", "subnet.tills.pool", "not inside"),
    ("pool =", '199"]', '199", "10.77.0.150-10.77.0.160"]', "subnet.tills.pool", "another range"),
    ("lease =", "12h", "0s", "subnet.tills.lease", "between"),
    ("dhcp =", '"server"', '"proxy"', "subnet.tills.pool", "is never used"),
    (
        "dhcp =",
        '"server"',
        '"server"\nshared = "x"',
        "subnet.tills.shared",
        "no [[shared_network]]",
    ),
    ("dhcp =", '"server"', '"server"\nalways = 42', "subnet.tills.always", "ntp-servers is not"),
    (
        "dhcp =",
        '"server"',
        '"server"\nlease_min = "2h"\nlease_max = "1h"',
        "subnet.tills.lease_min",
        "above lease_max",
    ),
    (
        "dhcp =",
        '"server"',
        '"server"\noptions = { routers = "10.77.0.1", 3 = "10.77.0.1" }',
        "subnet.tills.options",
        "routers is there twice",
    ),
    (
        "pool =",
        '["10.77.0.100-10.77.0.199"]',
        '{ range = "10.77.0.100-10.77.0.199", classes = "phones" }',
        "subnet.tills.pool",
        "no [[class]] phones",
    ),
    ("mac =", 'mac = "02:00:00:00:00:11"', "", "reservation.printer-1", "names nobody"),
    ("mac =", "mac", 'client_id = "x"\nmac', "reservation.printer-1", "has mac and client_id"),
    ("boot =", "true", "false", "subnet", "no subnet has boot"),
    ("address =", "10.77.0.11", "10.77.0.1", "reservation.printer-1.address", "the gateway"),
    ("address =", "10.77.0.11", "10.9.0.1", "reservation.printer-1.address", "any subnet"),
    ("mac =", "02:00:00:00:00:11", "ff:" * 5 + "ff", "reservation.printer-1.mac", "no address"),
    (
        'name = "printer-1"',
        "printer-1",
        "appliance",
        "reservation.appliance.name",
        "this appliance",
    ),
    ("listen =", "10.77.0.2", "10.77.0.3", "page.listen", "not an address of this"),
    ("listen =", ":443", ":8443", "page.listen", "in use"),
    ("addresses =", "10.77.0.59", "10.77.0.100", "role.pos.addresses", "with the pool"),
    ("addresses =", "10.77.0.59", "10.99.0.59", "role.pos.addresses", "inside one subnet"),
    ("secrets =", '"pos-api-token"', '"other"', "role.pos.secrets", "no [[secret]] other"),
    ("secrets =", '"]', '", "pos-api-token"]', "role.pos.secrets", "there twice"),
    ("config =", "pos.yaml.j2", "none.j2", "role.pos.config", "cannot read"),
    ("after =", "after =", 'renew = "12h"\nafter =', "role.pos.renew", "nothing to renew"),
    ("after =", '"power-off"', '"stay"\nrenew = "7d"', "role.pos.renew", "not inside the 7 days"),
    ("after =", '"power-off"', '"stay"\nrenew = "0s"', "role.pos.renew", "not inside the 7 days"),
    ("domain =", "shop-1.example.org", "shop-2.example.org", "", "may not vouch for names"),
    ("delivery_note =", "delivery.csv", "none.csv", "trust.delivery_note", "cannot read"),
]


@pytest.mark.parametrize(("line", "old", "new", "key", "says"), SETTINGS)
def test_settings_that_do_not_agree(
    made: Path, line: str, old: str, new: str, key: str, says: str
) -> None:
    lines = (made / "site.toml").read_text().splitlines()
    number = next(n for n, text in enumerate(lines) if text.startswith(line))
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)
    site = decode_site("\n".join(lines).encode())
    found = site_dir.errors_of(check(site, site_dir.gather(made, made / "state", site)))
    matching = [one for one in found if one.key == key and says in one.what]
    assert matching, [str(one) for one in found]
    assert all(one.remedy for one in found)


NOTES = [
    ("gateway =", "10.77.0.1", "10.77.0.2", "subnet.tills.gateway", "the appliance itself"),
    ("pool =", "10.77.0.100-10.77.0.199", "10.77.0.2-10.77.0.9", "subnet.tills.pool", "appliance"),
    ("pool =", "10.77.0.100-10.77.0.199", "10.77.0.0-10.77.0.1", "subnet.tills.pool", "first or"),
    ("pool =", '["10.77.0.100-10.77.0.199"]', "[]", "subnet.tills.pool", "is empty"),
    ("mac =", "02:00", "03:00", "reservation.printer-1.mac", "group address"),
    ("address =", "10.77.0.11", "10.77.0.150", "reservation.printer-1.address", "in the pool"),
    ("dhcp =", '"server"', '"off"', "subnet.tills.dhcp", "nothing tells them"),
    ("address =", "address", 'boot_set = "ab"\naddress', "reservation.boot_set", "with ab"),
]


@pytest.mark.parametrize(("line", "old", "new", "key", "says"), NOTES)
def test_settings_that_are_worth_a_note(
    made: Path, line: str, old: str, new: str, key: str, says: str
) -> None:
    text = (made / "site.toml").read_text()
    lines = text.splitlines()
    number = next(n for n, one in enumerate(lines) if one.startswith(line))
    lines[number] = lines[number].replace(old, new, 1)
    site = decode_site("\n".join(lines).encode())
    found = check(site, site_dir.gather(made, made / "state", site))
    assert site_dir.errors_of(found) == []
    assert [one for one in found if one.key == key and says in one.what], [str(o) for o in found]


NETBOOT = """
[[class]]
name = "phones"
[[class]]
name = "phones"
[[boot.rule]]
name = "menu"
file = "menu.ipxe"
[[shared_network]]
name = "hall"
[[shared_network]]
name = "hall"
[[subnet6]]
name = "tills"
interface = "eth7"
network = "2001:db8:7::/64"
appliance = "2001:db8:8::2"
pool = "2001:db8:9::1-2001:db8:9::2"
[[subnet6]]
name = "cams"
interface = "eth7"
network = "2001:db8:7::/64"
appliance = "2001:db8:7::2"
[[reservation6]]
address = "2001:db8:1::1"
[[reservation6]]
name = "x"
mac = "02:00:00:00:00:01"
duid = "00:04"
address = "2001:db8:1::1"
"""


def test_networks_that_do_not_agree(made: Path, files: SiteFiles) -> None:
    site = decode_site(((made / "site.toml").read_text() + NETBOOT).encode())
    found = [f"{one.key} {one.what}" for one in site_dir.errors_of(check(site, files))]
    for expected in (
        "class.name phones is there twice",
        "boot.rule.menu.file there is no directory that menu.ipxe could be in",
        "shared_network.name hall is there twice",
        "subnet6.tills.name is the name of a [[subnet]] too",
        "subnet6.tills.appliance 2001:db8:8::2 is not in 2001:db8:7::/64",
        "subnet6.tills.pool 2001:db8:9::1-2001:db8:9::2 is not inside 2001:db8:7::/64",
        "subnet6.cams.pool is empty",
        "reservation6.address 2001:db8:1::1 is there twice",
        "reservation6.1 names nobody or several",
        "reservation6.x names nobody or several",
        "reservation6.x.address 2001:db8:1::1 is in no subnet6",
    ):
        assert expected in found, (expected, found)


def test_pools_that_are_larger_than_netboot_can_hold(made: Path, files: SiteFiles) -> None:
    text = (made / "site.toml").read_text().replace("10.77.0.0/22", "10.64.0.0/10")
    text = text.replace("10.77.0.100-10.77.0.199", "10.78.0.0-10.99.255.255")
    found = site_dir.errors_of(check(decode_site(text.encode()), files))
    assert any("has more than 1048576 addresses" in one.what for one in found)


def test_what_netboot_could_not_serve_is_found_before(made: Path, files: SiteFiles) -> None:
    text = (made / "site.toml").read_text()
    text = text.replace("[boot]", '[boot]\nfiles = "files"\nrule = [{name = "a", file = "a.efi"}]')
    site = decode_site(text.encode())
    (problem,) = site_dir.errors_of(check(site, files))
    assert "netboot cannot serve it: boot rule 1: there is no file a.efi" in problem.what
    there = replace(files, boot_files=frozenset({"/a.efi"}))
    assert site_dir.errors_of(check(site, there)) == []


def test_tables_that_do_not_agree(made: Path, files: SiteFiles) -> None:
    text = (made / "site.toml").read_text()
    start = text.index("[[role]]")
    role = text[start : text.index("[[secret]]")]
    subnet = text[text.index("[[subnet]]") : text.index("[[reservation]]")]
    secret = text[text.index("[[secret]]") :]
    other = subnet.replace('"tills"', '"more"').replace("10.77.0.0/22", "10.77.2.0/24")
    site = decode_site((text + "\n" + role + other + secret).encode())
    found = [f"{one.key} {one.what}" for one in site_dir.errors_of(check(site, files))]
    for expected in (
        "role.name pos is there twice",
        "role.default is set for more than one role",
        "role.pos.hostname is that of role pos too",
        "role.pos.addresses overlaps with role pos",
        "subnet.more.network overlaps with subnet tills",
        "subnet.appliance 10.77.0.2 is there twice",
        "secret.name pos-api-token is there twice",
    ):
        assert expected in found, found


def change(**changes: object) -> Callable[[SiteFiles], SiteFiles]:
    return lambda files: replace(files, **changes)


TEMPLATE = "templates/pos.yaml.j2"
POLICY = b'type = "doorstep/policy/v1"\n'
FILES = [
    (change(boot_files="files: No such file or directory"), "site.toml", "No such file"),
    (change(time_zone_known=False), "site.toml", "no time zone"),
    (change(templates={TEMPLATE: "#\n{{ box.nme }}"}), TEMPLATE, "line 2"),
    (change(templates={TEMPLATE: "hello"}), TEMPLATE, "ignore it"),
    (change(anchors={"trust/ek/a.pem": b"none"}), "trust/ek/a.pem", "no PEM certificate"),
    (change(policy=b""), "policy.toml", "type: write type"),
    (change(policy=b"\xff"), "policy.toml", "UTF-8"),
    (change(policy=POLICY + b'waive = ["SECURE-BOOT-OFF"]'), "policy.toml", "cannot be waived"),
    (change(policy=POLICY + b"rehearsal = true"), "policy.toml", "no TPM in software"),
    (change(root_certificate=None), "trust/root.pem", "is missing"),
    (change(root_certificate=b"x"), "trust/root.pem", "not a PEM"),
    (change(sign_public=None), "trust/root.pub", "is missing"),
    (change(delivery_signature=None), "delivery.csv", "minisig is missing"),
    (change(delivery_signature=b"x"), "delivery.csv", "four lines"),
    (change(delivery_note=b"serial\n"), "delivery.csv", "not what was signed"),
    (change(published=b"{}"), "bootsets/published.json", "exactly the keys"),
    (
        change(published=Published().serve(bytes(32), keep_until=None).encode()),
        "bootsets/published.json",
        "not in the store",
    ),
]


@pytest.mark.parametrize(("damage", "file", "says"), FILES)
def test_files_that_are_damaged(
    site: Site,
    files: SiteFiles,
    damage: Callable[[SiteFiles], SiteFiles],
    file: str,
    says: str,
) -> None:
    found = site_dir.errors_of(check(site, damage(files)))
    assert [one.file for one in found] == [file]
    assert says in found[0].what
    assert found[0].remedy


def test_a_note_for_roles_that_do_not_exist(made: Path, site: Site, tmp_path: Path) -> None:
    entry = note.Entry(serial="S1", model=None, ek_sha256=None, role="till", name=None)
    for source in made.rglob("*"):
        target = tmp_path / source.relative_to(made)
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (tmp_path / "delivery.csv").write_bytes(note.encode((entry,)))
    site_dir.sign_note(tmp_path, site)
    found = site_dir.errors_of(check(site, site_dir.gather(tmp_path, tmp_path, site)))
    assert [(one.key, one.what) for one in found] == [("serial S1", "there is no role till")]
    nobody = decode_site((tmp_path / "site.toml").read_bytes().replace(b"default = true", b""))
    (tmp_path / "delivery.csv").write_bytes(note.encode((replace(entry, role=None),)))
    site_dir.sign_note(tmp_path, site)
    found = site_dir.errors_of(check(nobody, site_dir.gather(tmp_path, tmp_path, nobody)))
    assert [(one.key, one.what) for one in found] == [("serial S1", "has no role")]


def test_each_signature_of_the_note_counts_one_up(tmp_path: Path) -> None:
    directory = tmp_path / "site"
    site_dir.init(directory, NEW)
    site = site_dir.load(directory)
    public = (directory / "trust" / "root.pub").read_bytes()
    for counter in (2, 3):
        signature, said = site_dir.sign_note(directory, site)
        assert said == counter
        text = (directory / "delivery.csv").read_bytes()
        comment = verify(public, text, signature.read_bytes(), context=note.CONTEXT)
        assert comment == f"site=shop-1 counter={counter}"


def test_the_offline_keys_may_be_elsewhere(tmp_path: Path) -> None:
    directory, stick = tmp_path / "site", tmp_path / "stick"
    site_dir.init(directory, NEW)
    (directory / "offline").rename(stick)
    site = site_dir.load(directory)
    with pytest.raises(SiteError, match="--offline"):
        site_dir.sign_note(directory, site)
    assert site_dir.sign_note(directory, site, stick)[1] == 2
    keys = [one for one in site_dir.check_site(directory, tmp_path)[1] if one.file == "offline"]
    assert keys == []


def test_the_root_follows_a_changed_domain(tmp_path: Path) -> None:
    directory = tmp_path / "site"
    site_dir.init(directory, NEW)
    before = load_certificate((directory / "trust" / "root.pem").read_bytes())
    path = directory / "site.toml"
    path.write_text(path.read_text().replace("shop-1.example.org", "shop-2.example.org"))
    assert site_dir.errors_of(site_dir.check_site(directory, tmp_path)[1])
    site_dir.remake_root(directory, site_dir.load(directory))
    assert site_dir.errors_of(site_dir.check_site(directory, tmp_path)[1]) == []
    after = load_certificate((directory / "trust" / "root.pem").read_bytes())
    assert after.public_key() == before.public_key()


def test_a_root_from_before_ipv6_is_worth_a_note_and_stops_nothing(tmp_path: Path) -> None:
    """Boxes ask for the name: they enrol by IPv6 all the same."""
    directory = tmp_path / "site"
    site_dir.init(directory, NEW)
    path = directory / "site.toml"
    six = 'name = "six"\ninterface = "eth0"\nnetwork = "fd00:1::/64"\nappliance = "fd00:1::2"\n'
    path.write_text(f'{path.read_text()}\n[[subnet6]]\n{six}pool = "fd00:1::100-fd00:1::1ff"\n')

    def notes() -> list[str]:
        problems = site_dir.check_site(directory, tmp_path)[1]
        assert site_dir.errors_of(problems) == []
        return [str(one) for one in problems if "vouch" in str(one)]

    (note,) = notes()
    assert "may not vouch for fd00:1::2 of subnet6 six: run `doorstep ca root`" in note
    site_dir.remake_root(directory, site_dir.load(directory))
    assert notes() == []


def test_a_site_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="doorstep init"):
        site_dir.load(tmp_path)
    (tmp_path / "site.toml").write_text("x = 1")
    with pytest.raises(SiteFileError):
        site_dir.load(tmp_path)


def told(site: Site, files: SiteFiles) -> str:
    return " | ".join(str(one) for one in check(site, files) if "firmware" in str(one))


def test_a_firmware_baseline_that_is_not_used_is_told_and_stops_nothing(
    made: Path, site: Site, files: SiteFiles
) -> None:
    assert "every box is held for its firmware once" in told(site, files)
    waived = replace(files, policy=POLICY + b'waive = ["FIRMWARE-UNKNOWN"]')
    assert told(site, waived) == ""
    data = encode_baseline(Baseline())
    signed = site_dir.sign_document(made, data, "firmware counter=1", CONTEXT)
    good = replace(files, firmware=data, firmware_signature=signed)
    assert told(site, good) == ""
    for bad in (
        replace(good, firmware=data + b"\n"),
        replace(good, firmware_signature=None),
        replace(good, sign_public=None),
    ):
        assert "trust/firmware.toml: is not used" in told(site, bad)
        assert not [one for one in site_dir.errors_of(check(site, bad)) if "firmware" in str(one)]
