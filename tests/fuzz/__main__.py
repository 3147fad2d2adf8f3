"""`python -m tests.fuzz run|million|packets|sample|try|list`: see the package's text."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tests.fuzz import campaign


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="coverage-guided, each target for some seconds")
    running.add_argument("names", nargs="*", metavar="NAME")
    running.add_argument("--seconds", type=int, default=60)
    running.add_argument("--evidence", type=Path)
    single = commands.add_parser("one", help="one target in this process")
    single.add_argument("name")
    single.add_argument("--seconds", type=int, default=60)
    single.add_argument("--evidence", type=Path)
    again = commands.add_parser("try", help="one input once more")
    again.add_argument("name")
    again.add_argument("file", type=Path)
    again.add_argument("--json", action="store_true")
    many = commands.add_parser("million", help="mutated logs, quotes and certificates")
    many.add_argument("--count", type=int, default=1_000_000)
    many.add_argument("--seed", default=time.strftime("%Y-%m-%d"))
    many.add_argument("--evidence", type=Path)
    wire = commands.add_parser("packets", help="mutated packets to netboot's servers")
    wire.add_argument("--count", type=int, default=1_000_000)
    wire.add_argument("--seed", default=time.strftime("%Y-%m-%d"))
    sample = commands.add_parser("sample", help="judge one sample of either million once more")
    sample.add_argument("kind")
    sample.add_argument("number", type=int)
    sample.add_argument("--seed", required=True)
    sample.add_argument("--evidence", type=Path)
    commands.add_parser("list", help="name the targets")
    chosen = parser.parse_args()
    sys.exit(_COMMANDS[chosen.command](chosen))


def _run(chosen: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    names = [name for each in chosen.names for name in each.split(",") if name] or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        print(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
        return 2
    return campaign.run(names, chosen.seconds, _absolute(chosen.evidence))


def _one(chosen: argparse.Namespace) -> int:
    campaign.one(chosen.name, chosen.seconds, chosen.evidence)
    return 0


def _try(chosen: argparse.Namespace) -> int:
    told, took, why = campaign.attempt(chosen.name, chosen.file.read_bytes())
    if chosen.json:
        print(json.dumps({"told": told, "ms": took, "why": why}))
    else:
        print(f"{told or 'nothing'} in {took:.1f} ms\n{why}")
    return int(bool(told) or took > campaign.SLOW_MS)


def _million(chosen: argparse.Namespace) -> int:
    from tests.fuzz import million

    evidence, result = _absolute(chosen.evidence), campaign.WORK / "million.json"

    def begin() -> million.Maker:
        return million.Samples(chosen.seed, evidence)

    return million.run(chosen.count, chosen.seed, million.SHARES, begin, result)


def _packets(chosen: argparse.Namespace) -> int:
    from tests.fuzz import million, packet_samples

    def begin() -> million.Maker:
        return packet_samples.PacketSamples(chosen.seed)

    shares, result = packet_samples.SHARES, campaign.WORK / "packets.json"
    return million.run(chosen.count, chosen.seed, shares, begin, result)


def _sample(chosen: argparse.Namespace) -> int:
    from tests.fuzz import million, packet_samples

    kinds = (*million.SHARES, *packet_samples.SHARES)
    if chosen.kind not in kinds:
        print(f"no kind {chosen.kind}; there are {', '.join(kinds)}")
        return 2
    tally = million.Tally()
    maker: million.Maker = packet_samples.PacketSamples(chosen.seed)
    if chosen.kind in million.SHARES:
        maker = million.Samples(chosen.seed, chosen.evidence)
    maker.judge(chosen.kind, chosen.number, tally)
    print(dict(tally.told), f"{tally.slowest_ms:.1f} ms", *tally.found, sep="\n")
    return int(bool(tally.found))


def _list(chosen: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    print("\n".join(TARGETS))
    return 0


def _absolute(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        sys.exit(f"no directory {path}")
    return path and path.resolve()


_COMMANDS = {
    "run": _run,
    "one": _one,
    "try": _try,
    "million": _million,
    "packets": _packets,
    "sample": _sample,
    "list": _list,
}

if __name__ == "__main__":
    main()
