"""Names of boot files and the serve record: what is told, once a minute, and bounded."""

from ipaddress import IPv4Address, IPv6Address

import pytest

from netboot.files import (
    LARGE,
    MAX_QUIET,
    QUIET_SECONDS,
    Assignments,
    Entry,
    FileMap,
    Missing,
    ServedSet,
    ServeRecord,
    Transport,
)

BOX = IPv4Address("10.41.7.100")
OTHER = IPv4Address("10.41.7.101")
ENTRY = Entry(path="/vmlinuz", sha256=bytes(32))


def refused(record: ServeRecord, name: str, now: float, box: IPv4Address = BOX) -> int:
    return len(record.refused(Transport.TFTP, box, name, Missing.NOT_FOUND, now))


def test_the_same_refusal_is_told_once_a_minute_for_each_client() -> None:
    record = ServeRecord()
    assert refused(record, "x", 0.0) == 1
    assert refused(record, "x", 1.0) == 0
    assert refused(record, "y", 1.0) == 1
    assert refused(record, "x", 1.0, OTHER) == 1
    assert refused(record, "x", QUIET_SECONDS + 1.0) == 1


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    record = ServeRecord()
    assert refused(record, "x", 1000.0) == 1
    assert refused(record, "x", 0.0) == 1


def test_what_is_remembered_is_bounded() -> None:
    record = ServeRecord()
    told = [refused(record, f"{number}", 0.0) for number in range(MAX_QUIET + 1)]
    assert sum(told) == MAX_QUIET + 1
    assert refused(record, "0", 0.0) == 1


def test_whole_files_are_told_each_time_and_pieces_once_a_minute() -> None:
    record = ServeRecord()

    def end(sent: int, now: float) -> int:
        return len(record.end(Transport.HTTP, BOX, ENTRY, 100, now, sent=sent))

    assert [end(100, 0.0), end(100, 0.0), end(10, 0.0), end(20, 1.0)] == [1, 1, 1, 0]
    assert end(10, QUIET_SECONDS + 1) == 1


SIZE = 10 * LARGE


def detail(events) -> dict:
    (event,) = events
    return dict(event.detail)


def progress(record: ServeRecord, now: float, sent: int, size: int = SIZE) -> list:
    events = record.progress(Transport.TFTP, BOX, ENTRY, size, now, sent=sent)
    return [dict(event.detail)["sent"] for event in events]


def test_a_large_file_on_its_way_is_told_of_every_two_seconds() -> None:
    record = ServeRecord()
    record.start(Transport.TFTP, BOX, ENTRY, SIZE, 0.0)
    told = [progress(record, at / 10, at * 100) for at in range(50)]
    assert [one for one in told if one] == [[2000], [4000]]
    assert progress(ServeRecord(), 9.0, 5, size=LARGE - 1) == []


def test_what_broke_off_is_told_with_how_far_it_got() -> None:
    record = ServeRecord()
    first = record.end(Transport.HTTP, BOX, ENTRY, SIZE, 0.0, sent=43)
    assert (detail(first)["sent"], detail(first)["done"]) == (43, False)
    assert record.end(Transport.HTTP, BOX, ENTRY, SIZE, 1.0, sent=44) == ()
    later = record.end(Transport.HTTP, BOX, ENTRY, SIZE, 2.0, sent=45)
    assert detail(later)["sent"] == 45


def test_pieces_that_follow_each_other_are_one_file() -> None:
    record = ServeRecord()

    def piece(offset: int, sent: int, now: float) -> list:
        told = record.end(
            Transport.HTTP, BOX, ENTRY, 100, now, sent=sent, offset=offset, broke=False
        )
        return [(dict(one.detail)["sent"], dict(one.detail)["done"]) for one in told]

    assert piece(0, 30, 0.0) == [(30, False)]
    assert piece(30, 30, 0.1) == []
    assert piece(50, 30, 0.2) == []
    assert piece(80, 20, 0.3) == [(100, True)]
    assert piece(0, 40, 200.0) == [(40, False)]
    (gap,) = record.end(Transport.HTTP, BOX, ENTRY, 100, 300.0, sent=50, offset=50, broke=False)
    told = dict(gap.detail)
    assert (told["sent"], told["offset"], told["done"]) == (50, 50, False)


def test_an_event_names_the_boot_set_and_the_bytes() -> None:
    entry = Entry(path="/vmlinuz", sha256=b"v" * 32, boot_set=NEW)
    started = detail(ServeRecord().start(Transport.HTTP, BOX, entry, SIZE, 0.0))
    assert (started["boot_set"], started["sha256"]) == (NEW.hex(), (b"v" * 32).hex())
    unknown = detail(ServeRecord().start(Transport.HTTP, BOX, ENTRY, SIZE, 0.0))
    assert "boot_set" not in unknown


def test_a_name_that_a_client_made_up_is_told_in_plain_ascii_and_short() -> None:
    record = ServeRecord()
    (event,) = record.refused(Transport.TFTP, BOX, "\xff\n" * 900, Missing.FORBIDDEN, 0.0)
    name = dict(event.detail)["name"]
    assert str(name).isascii()
    assert len(str(name)) < 3000
    assert event.reason == "FORBIDDEN"


US = IPv4Address("10.41.7.2")
OLD, NEW, ARM = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


def served(boot_set: bytes, architecture: str, *names: str) -> ServedSet:
    return ServedSet(
        boot_set=boot_set,
        architecture=architecture,
        loader=names[0],
        names={name: boot_set[:16] + name.encode()[:16].ljust(16) for name in names},
    )


FILES = FileMap(
    {"/f/00/initrd": bytes(32), "/tools/memtest.efi": bytes(32)},
    sets=(
        served(OLD, "amd64", "/shimx64.efi", "/grub/grub.cfg"),
        served(NEW, "amd64", "/shimx64.efi", "/grub/grub.cfg"),
        served(ARM, "arm64", "/shimaa64.efi", "/grub/grub.cfg"),
    ),
)


def boot_set_of(found: Entry | Missing) -> bytes | None | Missing:
    return found.boot_set if isinstance(found, Entry) else found


@pytest.mark.parametrize(
    ("name", "offered", "boot_set"),
    [
        ("shimx64.efi", None, OLD),
        ("shimx64.efi", OLD, OLD),
        ("SHIMX64.EFI", NEW, NEW),
        ("grub/grub.cfg", NEW, NEW),
        ("grub/grub.cfg", ARM, ARM),
        ("shimaa64.efi", None, ARM),
        ("shimaa64.efi", NEW, ARM),
        ("shimx64.efi", bytes(32), OLD),
        ("f/00/initrd", None, None),
        ("f/00/initrd", NEW, NEW),
        ("f/00/initrd", bytes(32), None),
        ("nothing", NEW, Missing.NOT_FOUND),
        ("../x", NEW, Missing.FORBIDDEN),
    ],
)
def test_a_fixed_name_means_the_set_that_the_box_was_offered(name, offered, boot_set) -> None:
    found = FILES.find(name, US, offered)
    assert boot_set_of(found) == boot_set
    if isinstance(found, Entry) and found.path in ("/shimx64.efi", "/grub/grub.cfg"):
        assert found.sha256[:16] == found.boot_set[:16]


def test_a_canary_is_never_given_a_file_of_the_default_set() -> None:
    files = FileMap(
        sets=(
            served(OLD, "amd64", "/shimx64.efi", "/only-old.efi"),
            served(NEW, "amd64", "/shimx64.efi"),
        )
    )
    assert boot_set_of(files.find("/only-old.efi", US)) == OLD
    assert files.find("/only-old.efi", US, NEW) is Missing.NOT_FOUND


def test_only_networks_that_boot_are_served_ipv6_too() -> None:
    six = IPv6Address("fd41::2")
    files = FileMap({"/x": bytes(32)}, [US, six])
    assert isinstance(files.find("/x", six), Entry)
    assert isinstance(files.find("/x", US), Entry)
    assert files.find("/x", IPv6Address("fd42::2")) is Missing.NOT_HERE


def test_a_client_keeps_to_the_set_that_it_was_offered() -> None:
    known = Assignments()
    known.assign(BOX, NEW)
    assert boot_set_of(known.find(FILES, "/grub/grub.cfg", US, BOX)) == NEW
    assert boot_set_of(known.find(FILES, "/grub/grub.cfg", US, OTHER)) == OLD
    known.assign(BOX, ARM)
    assert boot_set_of(known.find(FILES, "/grub/grub.cfg", US, BOX)) == ARM


def test_a_client_of_another_dhcp_server_keeps_to_the_set_of_its_loader() -> None:
    known = Assignments()
    assert boot_set_of(known.find(FILES, "/f/00/initrd", US, BOX)) is None
    assert boot_set_of(known.find(FILES, "/shimaa64.efi", US, BOX)) == ARM
    assert boot_set_of(known.find(FILES, "/grub/grub.cfg", US, BOX)) == ARM
    assert boot_set_of(known.find(FILES, "/f/00/initrd", US, BOX)) == ARM


def test_assignments_are_bounded_and_the_oldest_goes_first() -> None:
    known = Assignments(most=2)
    third = IPv6Address("fd41::9")
    known.assign(BOX, OLD)
    known.assign(OTHER, OLD)
    known.assign(BOX, NEW)
    known.assign(third, NEW)
    assert [known.of(one) for one in (BOX, OTHER, third)] == [NEW, None, NEW]
