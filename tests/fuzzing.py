"""Fuzzing: mutated images, tables, TOML files and folders, read by the functions that read a competition's files.

    make fuzz SECONDS=60
    python -m tests.fuzzing --seconds 60 --seed 0
    python -m tests.fuzzing --case toml:17        # one case again, with its traceback

A case is a target and a number; the number is the seed of the case, so that a failure can be repeated. A case passes if
the file is read (as before, if the mutation did not change its content), or if it is refused with a ValueError or
OSError with a message of one line and at most 300 characters.
"""

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
from rich.progress import Progress

from pipeline.quoting import MAX_MESSAGE
from tests.fuzz_folders import fuzz_folder
from tests.fuzz_images import fuzz_image
from tests.fuzz_tables import fuzz_table
from tests.fuzz_toml import fuzz_toml

Target = Callable[[np.random.Generator, Path], str]

TARGETS: dict[str, Target] = {"images": fuzz_image, "tables": fuzz_table, "toml": fuzz_toml, "folders": fuzz_folder}


def run_case(name: str, number: int, folder: Path) -> str:
    """Run one case in an empty folder; returns what happened, "read" or "refused".

    Raises:
        AssertionError: for a wrong result, a message that is too long or not one line, or no message at all.
        Exception: whatever else the code under test raised.
    """
    rng = np.random.default_rng([list(TARGETS).index(name), number])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' warnings about damaged files are not tested here
        try:
            return TARGETS[name](rng, folder)
        except UnicodeError:
            raise  # a ValueError without a message of the pipeline
        except (ValueError, OSError) as error:
            message = str(error).replace(str(folder), "")
    check_message(message)
    return "refused"


def check_message(message: str) -> None:
    """Check that an error message is one short line.

    Raises:
        AssertionError: if it is not.
    """
    assert message.strip(), "an error without a message"
    assert len(message) <= MAX_MESSAGE, f"a message of {len(message)} characters: {message[:MAX_MESSAGE]} …"
    assert len(message.splitlines()) == 1, f"a message of several lines: {message}"


def cases(seed: int) -> Iterator[tuple[str, int]]:
    """An endless sequence of (target, number), with alternating targets."""
    for number in count(seed * 1_000_000):
        for name in TARGETS:
            yield name, number


def fuzz(seconds: float, seed: int) -> tuple[Counter, list[tuple[str, int, str]]]:
    """Run cases until the time is up; returns counts by (target, outcome), and the failures with their message."""
    outcomes: Counter = Counter()
    failures: list[tuple[str, int, str]] = []
    end = time.monotonic() + seconds
    with Progress(transient=True) as progress:
        bar = progress.add_task("fuzz", total=seconds)
        for name, number in cases(seed):
            left = end - time.monotonic()
            if left <= 0:
                return outcomes, failures
            progress.update(bar, completed=seconds - left, description=f"fuzz: {len(failures)} failures")
            with tempfile.TemporaryDirectory() as folder:
                try:
                    outcomes[name, run_case(name, number, Path(folder))] += 1
                except Exception as error:
                    outcomes[name, "failed"] += 1
                    failures.append((name, number, f"{type(error).__name__}: {str(error)[:MAX_MESSAGE]}"))
    raise AssertionError("cases never end")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", help="target:number, one case with its traceback")
    args = parser.parse_args()
    if args.case:
        name, _, number = args.case.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(run_case(name, int(number), Path(folder)))
                return 0
            except Exception:
                traceback.print_exc()
                return 1
    outcomes, failures = fuzz(args.seconds, args.seed)
    for (name, outcome), times in sorted(outcomes.items()):
        print(f"{name:8} {outcome:8} {times}")
    for name, number, message in failures:
        print(f"python -m tests.fuzzing --case {name}:{number}    {message}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
