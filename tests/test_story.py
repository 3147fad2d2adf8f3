"""A chapter of a rehearsal's story knows when each thing happened first."""

from bootstrap.rehearsal.story import Chapter, Moment


def test_when_a_kind_happened_first() -> None:
    moments = [
        Moment(seconds=second, kind=kind, sentence=kind)
        for second, kind in ((1.0, "session"), (2.0, "held"), (3.0, "session"))
    ]
    chapter = Chapter(title="a box", moments=moments)
    assert (chapter.seconds("session"), chapter.seconds("held")) == (1.0, 2.0)
    assert chapter.seconds("ready") is None


def test_the_timeline_names_each_mark_once_and_the_last_file() -> None:
    chapter = Chapter(title="t")
    told = (("dhcp-discover", 1.0), ("boot-file", 2.0), ("boot-file", 3.5), ("ready", 9.0))
    chapter.moments += [Moment(seconds=at, kind=kind, sentence="") for kind, at in told]
    assert chapter.timeline() == "heard 1.0 s, all files 3.5 s, ready 9.0 s"
