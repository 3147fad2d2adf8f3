"""A boot set with iPXE: what is served, to whom, and facts that are those of its files."""

from __future__ import annotations

import dataclasses
import hashlib
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from boot_forge import pe_image
from test_ipxe import KNOWN, ipxe_image
from test_planning import EXAMPLE

from attest.bootmatch import switched_off, unknown_variables
from attest.errors import AttestSiteError
from attest.imagefacts import digests
from attest.ipxe import read_script
from attest.predict import Transport, predict
from bootstrap.build.machines import MACHINES
from bootstrap.build.parts import build_parts, committed_lock
from bootstrap.check_network import check_network
from bootstrap.errors import SiteError
from bootstrap.io import predictions
from bootstrap.io.references import ipxe_facts
from bootstrap.module_list import encode_modules
from bootstrap.planning import make_plan
from bootstrap.rehearsal.record import core_digest
from bootstrap.site import Site, decode_site
from netboot.bootchoice import Loading
from netboot.bootset import (
    ARM64,
    IPXE_LOADER,
    IPXE_SCRIPT,
    BootFile,
    BootSetManifest,
    Role,
    files_to_serve,
    ipxe_script,
    rendered_files,
)
from netboot.errors import SiteError as StoreError
from netboot.io.bootsets import BootSetStore
from netboot.plan_check import check

RULES = """
[[boot.rule]]
name = "ipxe-script"
kind = "ipxe"
mac = "52:54:00"
file = "enrol/boot.ipxe"
via = "http"

[[boot.rule]]
name = "ipxe"
kind = "pxe"
mac = "52:54:00"
file = "enrol/ipxe.efi"
"""
CONTENTS = {
    Role.SHIM: b"shim",
    Role.GRUB: b"grub",
    Role.KERNEL: pe_image({".text": b"kernel"}),
    Role.GENERIC: b"g" * 5000,
    Role.ANCHOR: b"anchor",
    Role.IPXE: ipxe_image(),
    Role.MODULES: encode_modules({"tpm.ko": b"tpm"}),
}
SERVER = IPv4Address("10.41.7.2")


@pytest.fixture
def store(tmp_path: Path) -> BootSetStore:
    return BootSetStore(tmp_path)


def manifest(store: BootSetStore | None = None, *left_out: Role) -> BootSetManifest:
    """Make a set of these contents, and keep their files in a store."""
    names = MACHINES["amd64"].names
    contents = {role: data for role, data in CONTENTS.items() if role not in left_out}
    if store is not None:
        roles = {role: store.add_file(data, names[role]) for role, data in contents.items()}
    else:
        roles = {
            role: BootFile(name=names[role], sha256=hashlib.sha256(data).digest(), size=len(data))
            for role, data in contents.items()
        }
    made = BootSetManifest(name="enrol", version=1, created=0, release="test", roles=roles)
    if store is not None:
        store.add_set(made)
    return made


def site(rules: str = RULES) -> Site:
    return decode_site((EXAMPLE + rules).encode())


def test_the_script_is_flat_and_names_the_files_of_the_set() -> None:
    made = manifest()
    script = read_script(ipxe_script(made))
    assert script.kernel == made.roles[Role.KERNEL].path
    assert script.initrds == (made.roles[Role.GENERIC].path, made.roles[Role.ANCHOR].path)
    assert script.command_line == f"vmlinuz {made.command_line}"


def test_script_and_loader_have_fixed_names_where_the_set_has_the_role() -> None:
    made, without = manifest(), manifest(None, Role.IPXE)
    names = files_to_serve(made, (), SERVER)
    assert names[IPXE_LOADER] == made.roles[Role.IPXE].sha256
    assert names[IPXE_SCRIPT] == hashlib.sha256(ipxe_script(made)).digest()
    assert rendered_files(made, SERVER)[IPXE_SCRIPT] == ipxe_script(made)
    assert not {IPXE_LOADER, IPXE_SCRIPT} & set(files_to_serve(without, (), SERVER))
    assert IPXE_SCRIPT not in rendered_files(without, SERVER)


def test_the_digests_cover_that_there_is_an_ipxe_and_which() -> None:
    made, without = manifest(), manifest(None, Role.IPXE)
    other = BootFile(name="ipxe.efi", sha256=bytes(32), size=1)
    changed = dataclasses.replace(made, roles={**made.roles, Role.IPXE: other})
    for digest in (lambda one: one.digest, core_digest):
        assert len({digest(made), digest(without), digest(changed)}) == 3


def test_a_rule_for_the_set_s_files_waits_for_a_set_that_has_them() -> None:
    without = make_plan(site(), [], [manifest(None, Role.IPXE)], [], 1)
    assert without.boot is not None
    assert without.boot.rules == ()
    plan = make_plan(site(), [], [manifest()], [], 1)
    assert plan.boot is not None
    assert [(rule.file, rule.loading) for rule in plan.boot.rules] == [
        ("enrol/boot.ipxe", Loading.HTTP),
        ("enrol/ipxe.efi", Loading.TFTP),
    ]
    assert check(plan) == ()
    assert make_plan(site(), [], [], [], 1).boot is None


def test_rules_for_the_set_s_files_need_no_directory_and_others_do() -> None:
    assert list(check_network(site())) == []
    (problem,) = check_network(site(RULES.replace("enrol/ipxe.efi", "ipxe.efi")))
    assert problem.key == "boot.rule.ipxe.file"


def test_facts_are_computed_from_the_files_of_the_set(store: BootSetStore) -> None:
    facts = ipxe_facts(store, manifest(store))
    assert facts.ipxe.file == digests(CONTENTS[Role.IPXE])
    assert facts.kernel.file == digests(CONTENTS[Role.KERNEL])
    assert facts.initrd_loaded == digests(b"g" * 5000 + bytes(8192 - 5000) + b"anchor")
    assert facts.modules == (digests(b"tpm"),)
    assert facts.ipxe_family == KNOWN
    damaged = store.file(manifest().roles[Role.ANCHOR].sha256)
    damaged.chmod(0o644)
    damaged.write_bytes(b"evil!!")
    with pytest.raises(StoreError, match=r"\(anchor\) is damaged"):
        ipxe_facts(store, manifest())


def test_what_a_box_without_secure_boot_must_measure_can_be_asked_for(
    store: BootSetStore,
) -> None:
    made = manifest(store)
    nothing_else = site("").model_copy(update={"subnets": ()})
    found = predictions.predictions(store, nothing_else, made.digest)
    facts = ipxe_facts(store, made)
    predicted = predict(facts, transport=Transport.IPXE, server="", variables=switched_off(facts))
    assert [(one["transport"], one["bank"]) for one in found] == [
        ("ipxe", "sha256"),
        ("ipxe", "sha384"),
    ]
    assert found[0]["pcrs"]["9"] == predicted.pcr("sha256", 9).hex()
    assert "7" not in found[0]["pcrs"]
    on = unknown_variables(facts)
    assert predictions.predictions(store, nothing_else, made.digest, on) == []
    off = dataclasses.replace(on, secure_boot=False)
    assert "7" in predictions.predictions(store, nothing_else, made.digest, off)[0]["pcrs"]


def test_a_set_with_an_ipxe_that_was_never_booted_has_no_facts(store: BootSetStore) -> None:
    made = manifest(store)
    other = store.add_file(ipxe_image("ipxe,1,iPXE,ipxe.efi,2.0.0,x"), "ipxe.efi")
    changed = dataclasses.replace(made, roles={**made.roles, Role.IPXE: other})
    with pytest.raises(AttestSiteError, match="no boot profile for iPXE"):
        ipxe_facts(store, changed)


def test_no_set_for_arm64_can_carry_it_yet(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="no boot by iPXE is known for arm64"):
        build_parts(committed_lock(ARM64), tmp_path, ipxe=True)


def test_the_locked_ipxe_is_the_one_that_has_a_profile() -> None:
    package = MACHINES["amd64"].ipxe
    assert package is not None
    assert committed_lock().package(package[0]).version.startswith(KNOWN)
