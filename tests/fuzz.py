"""`make fuzz`: reports that are made up for minutes, by atheris where it can be installed, else by our own mutations.

python tests/fuzz.py [SECONDS]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from fwrunner.protocol import NotYet, Report, parse_json, parse_report, read_report
from tests.support.mutations import SEEDS, corpus

SIZE = 1_000_000


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    place = Path(tempfile.mkdtemp(prefix="fwagent-fuzz-"))
    try:
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        print(
            f"!!! atheris is not there ({error}): nothing is guided by coverage. Our own mutations instead."
        )
        _mutate(place, seconds)
        return
    seeds = place / "seeds"
    seeds.mkdir()
    for number, seed in enumerate(SEEDS):
        (seeds / str(number)).write_text(json.dumps(seed), encoding="utf-8")
    atheris.instrument_func(parse_json)
    atheris.instrument_func(parse_report)
    atheris.Setup(
        [sys.argv[0], f"-max_total_time={seconds}", str(seeds)], lambda data: one(place, data)
    )
    atheris.Fuzz()


def one(place: Path, data: bytes) -> None:
    """Read one text as each of the files; raises if that raises, or gives what is no answer."""
    for name in ("FW_offline.json", "FW_action.json", "FW_ping.json"):
        (place / name).write_bytes(data)
    assert isinstance(read_report(str(place), SIZE), (NotYet, Report))


def _mutate(place: Path, seconds: int) -> None:
    end, tried, seed = time.monotonic() + seconds, 0, time.time_ns()
    while time.monotonic() < end:
        for data in corpus(SEEDS, 1000, seed + tried):
            try:
                one(place, data)
            except BaseException:
                kept = place / "failed"
                kept.write_bytes(data)
                print(f"the text is kept in {kept} (seed {seed + tried})")
                raise
            tried += 1
    print(f"{tried} reports, nothing found (first seed {seed})")


if __name__ == "__main__":
    main()
