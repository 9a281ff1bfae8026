"""`make auto` against a plain script at equal CPU time.

    python benchmarks/auto.py --out FOLDER --data nuclei=FOLDER --data heart=FOLDER … [--budget 5m] [--only nuclei land]

For each data set (`auto_sets.py`):

1. `python -m pipeline auto` gets the files alone, the metric's name, and the budget as wall-clock time.
2. `plain_script.py` gets a description of the files, and the CPU time (user and system, of all processes) that auto
   used. If auto wrote no submission, it gets the budget.
3. Both submissions are scored by the metric of the card that a person wrote. The interval of the difference is the 95 %
   interval of a paired bootstrap over test images, or over their groups; it does not include the luck of a training.

Each process has one thread on one CPU. A run without a submission scores 0. A result is a JSON file in the folder, so a
killed benchmark resumes; --table prints what is there. "planned" and "took" are the seconds of the steps that auto
planned: trainings, predictions and submissions. Run it on a machine without other load, because auto's budget is
wall-clock time.
"""

import argparse
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_sets import NAMES, REAL, ROOT, AutoSet, make_set
from study import available_cpus, last_line, start

from pipeline.data.index import read_index, read_test_index
from pipeline.files import write_text
from pipeline.manifest import collect_provenance
from pipeline.metrics import Scores
from pipeline.progress import clock
from pipeline.scoring import image_scores
from pipeline.serving.budget_plan import parse_duration
from pipeline.statistics.bootstrap import paired
from pipeline.training.checkpoint import refuse_other_settings

AUTO, PLAIN = "auto", "plain"  # the methods
COLUMNS = "set", "train / test", "pixels", "metric", "auto", "plain", "difference", "95 % interval"
COLUMNS += ("planned / took, s", "CPU auto / plain, s")


class Ran(NamedTuple):
    """A process that ended."""

    status: int
    seconds: float  # wall clock
    cpu_seconds: float  # user and system, with its child processes


class Options(NamedTuple):
    """What the runs of all sets have in common."""

    budget: float  # seconds
    with_card: bool  # whether auto gets the card that a person wrote
    methods: tuple[str, ...]
    cpu: int | None = None  # None: the system does not support affinity


# ---------------------------------------------------------------------------------------------- runs


def run_set(made: AutoSet, out: Path, options: Options) -> Iterator[str]:
    """Run the methods that have no result for a data set yet; yields a line about each.

    Writes: <out>/results/<set>-auto.json, <out>/results/<set>-plain.json

    Raises:
        ValueError: for a result that was made with other settings.
    """
    for method in options.methods:
        settings = _settings(made, out, method, options)
        result, path = read_result(out, made.name, method), _result_file(out, made.name, method)
        if result is None:
            result = run(made, out / method / made.name, method, settings, options.cpu)
            write_text(path, json.dumps(result) + "\n")
        refuse_other_settings(path, result["settings"], settings)
        found = f"FAILED: {result['error']}" if result["error"] else f"{result['score']:.4f}"
        yield f"{made.name}  {method}  {found}  {clock(result['seconds'])}, CPU {clock(result['cpu_seconds'])}"


def _settings(made: AutoSet, out: Path, method: str, options: Options) -> dict[str, Any]:
    """What the result of a method depends on."""
    if method == AUTO:
        return {"seconds": options.budget, "with_card": options.with_card}
    auto = read_result(out, made.name, AUTO) if AUTO in options.methods else None
    return {"seconds": options.budget if auto is None or auto["error"] else auto["cpu_seconds"]}


def run(made: AutoSet, folder: Path, method: str, settings: dict[str, Any], cpu: int | None) -> dict[str, Any]:
    """Run a method in a new folder, and score its submission; returns the result."""
    shutil.rmtree(folder, ignore_errors=True)  # auto would resume a killed run, whose CPU time is not known
    folder.mkdir(parents=True)
    submission = (folder / "submissions" / f"{made.name}.csv").resolve()
    command, log = (auto_command if method == AUTO else plain_command)(made, submission, settings), folder / "log.txt"
    ran = execute(command, folder, log, cpu)
    error = f"exit status {ran.status}: {last_line(log)} ({log})" if ran.status else ""
    scored = {"score": 0.0} if error else score(made, submission)
    return {
        "settings": settings,
        "error": error,
        **scored,
        "seconds": round(ran.seconds, 1),
        "cpu_seconds": round(ran.cpu_seconds, 1),
        "steps": planned_steps(folder / "runs" / made.name / "auto.json") if method == AUTO else [],
        **collect_provenance(),
    }


def auto_command(made: AutoSet, _submission: Path, settings: dict[str, Any]) -> list[str]:
    """The command of the pipeline; it writes submissions/<name>.csv below the current folder."""
    described = ["--card", str(made.card_file.resolve())] if settings["with_card"] else ["--metric", made.card.metric]
    given = ["--data", str(made.files.resolve()), "--name", made.name, "--budget", f"{settings['seconds']:.1f}s"]
    return [sys.executable, "-m", "pipeline", "auto", *given, *described]


def plain_command(made: AutoSet, submission: Path, settings: dict[str, Any]) -> list[str]:
    """The command of the plain script."""
    script = str(ROOT / "benchmarks" / "plain_script.py")
    seconds = f"{settings['seconds']:.1f}"
    return [sys.executable, script, str(made.folder.resolve()), "--seconds", seconds, "--out", str(submission)]


def execute(command: list[str], folder: Path, log: Path, cpu: int | None) -> Ran:
    """Run a command in a folder, with one thread on one CPU."""
    begin = time.monotonic()
    process = start(command, log, cpu, folder)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # also after Ctrl-C
        process.terminate()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ran(process.returncode, time.monotonic() - begin, usage.ru_utime + usage.ru_stime)


def score(made: AutoSet, submission: Path) -> dict[str, Any]:
    """The score of a submission, and what each image adds to it."""
    image_ids, scores = image_scores(made.card, submission, made.solution)
    terms = {"numerator": scores.numerator.tolist(), "denominator": scores.denominator.tolist()}
    return {"score": scores.mean(), "image_id": image_ids, "group": made.groups(image_ids), **terms}


def planned_steps(path: Path) -> list[tuple[float, float]]:
    """The planned and the true seconds of each step that auto planned; none if it did not get that far."""
    steps = json.loads(path.read_text(encoding="utf-8"))["steps"] if path.is_file() else []
    return [(step["planned"], step["seconds"]) for step in steps if step["planned"] is not None]


def _result_file(out: Path, name: str, method: str) -> Path:
    return out / "results" / f"{name}-{method}.json"


def read_result(out: Path, name: str, method: str) -> dict[str, Any] | None:
    """The result of a method on a data set, or None if there is none yet."""
    path = _result_file(out, name, method)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


# ---------------------------------------------------------------------------------------------- table


def table(out: Path, names: Iterable[str]) -> str:
    """Markdown of all results, and the mean and the worst difference of the sets that both methods ran on."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    differences = {}
    for name in names:
        auto, plain = (read_result(out, name, method) for method in (AUTO, PLAIN))
        if auto or plain:
            lines.append("| " + " | ".join(_row(AutoSet(name, out / "sets" / name), auto, plain)) + " |")
        if auto and plain:
            differences[name] = auto["score"] - plain["score"]
    if differences:
        worst = min(differences, key=differences.__getitem__)
        lines.append(
            f"\n{len(differences)} sets: mean difference {np.mean([*differences.values()]):+.4f}, worst "
            f"{differences[worst]:+.4f} ({worst})"
        )
    return "\n".join(lines) + "\n"


def _row(made: AutoSet, auto: dict[str, Any] | None, plain: dict[str, Any] | None) -> list[str]:
    cells = [made.name, *describe(made), made.card.metric, _shown_score(auto), _shown_score(plain)]
    cells += [f"{auto['score'] - plain['score']:+.4f}", difference(auto, plain)] if auto and plain else ["", ""]
    steps = np.array(auto["steps"]).reshape(-1, 2) if auto else np.zeros((0, 2))
    planned, took = steps.sum(axis=0)
    spent = [f"{each['cpu_seconds']:.0f}" if each else "–" for each in (auto, plain)]
    return [*cells, f"{planned:.0f} / {took:.0f}" if len(steps) else "", " / ".join(spent)]


def _shown_score(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    return "failed" if result["error"] else f"{result['score']:.4f}"


def difference(auto: dict[str, Any], plain: dict[str, Any]) -> str:
    """The interval of the difference of two results; empty if one of them has no submission."""
    if auto["error"] or plain["error"]:
        return ""
    position = {image_id: number for number, image_id in enumerate(plain["image_id"])}
    order = [position[image_id] for image_id in auto["image_id"]]
    one, other = (Scores(np.array(each["numerator"]), np.array(each["denominator"])) for each in (auto, plain))
    found = paired(one, other.take(np.array(order)), np.array(auto["group"]))
    return "too few groups" if math.isnan(found.low) else f"{found.low:+.4f} to {found.high:+.4f}"


def describe(made: AutoSet) -> list[str]:
    """The numbers of images of a set, and the range of their sizes."""
    index = read_index(made.card, made.files, grouped=False)
    test = read_test_index(made.card, made.files)
    sizes = sorted({(height, width) for height, width in index[["height", "width"]].to_numpy().tolist()})
    shown = [f"{height}×{width}" for height, width in (sizes[:1] if len(sizes) == 1 else [sizes[0], sizes[-1]])]
    return [f"{len(index)} / {len(test)}", " to ".join(shown)]


# ---------------------------------------------------------------------------------------------- command


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of data sets, runs and results")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help=f"of {', '.join(REAL)}")
    parser.add_argument("--budget", default="5m", help="of auto, such as 5m (default)")
    parser.add_argument("--only", nargs="+", metavar="SET", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--method", choices=(AUTO, PLAIN), help="only one: plain gets the budget as CPU time")
    parser.add_argument("--with-card", action="store_true", help="give auto the card that a person wrote")
    parser.add_argument("--table", action="store_true", help="only print the table of the results so far")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    try:
        return _main(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def _main(options: argparse.Namespace) -> int:
    names = options.only or NAMES
    given = {}
    for pair in options.data:
        name, _, folder = pair.partition("=")
        if name not in REAL or not Path(folder).is_dir():
            raise ValueError(f"--data {pair}: expected the name of a real set ({', '.join(REAL)}), = and its folder")
        given[name] = Path(folder)
    if unknown := [name for name in names if name not in NAMES]:
        raise ValueError(f"--only {unknown[0]}: no such set, expected one of {', '.join(NAMES)}")
    methods = (options.method,) if options.method else (AUTO, PLAIN)
    how = Options(parse_duration(options.budget), options.with_card, methods, available_cpus()[-1])
    for number, name in enumerate([] if options.table else names, start=1):
        for line in run_set(make_set(name, options.out / "sets" / name, given), options.out, how):
            print(f"{number:>2}/{len(names)}  {line}", flush=True)
    print(table(options.out, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
