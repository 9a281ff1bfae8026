"""The stage `rehearse`: runs the submission notebook locally as Kaggle runs it, on two test sets."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import PositiveInt

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.tables import read_table
from pipeline.kaggle.metadata import NOTEBOOKS, competition_slugs, make_title
from pipeline.kaggle.mock_test_set import write_hidden, write_known
from pipeline.kaggle.rehearsal import (
    WORKING_LIMIT,
    NotebookRun,
    describe_base,
    make_environment,
    make_kaggle_root,
    run_notebook,
)
from pipeline.schema import JsonRecord, read_json
from pipeline.stages.bundling import BundleResult, bundle
from pipeline.stages.submitting import check_csv
from pipeline.submission import sample_rows

log = logging.getLogger(__name__)

REHEARSALS = Path("dist/rehearsal")
DATASETS = ("code", "weights")
RERUN = {"KAGGLE_IS_COMPETITION_RERUN": "1"}


class RehearsalRun(NamedTuple):
    """One run of the notebook on one test set."""

    name: str  # of the test set
    images: int
    notebook: NotebookRun
    problem: str | None  # with the CSV; None: it is valid
    without_mask: dict[str, str]  # image id -> reason
    seconds_per_image: float
    difference: str | None  # from the CSV of make ensemble; None on the hidden test set

    @property
    def passed(self) -> bool:
        """Whether Kaggle would have accepted the submission."""
        return self.notebook.status == 0 and self.problem is None and self.notebook.working_size < WORKING_LIMIT


class RunRecord(JsonRecord):
    """The keys of submission.json, written by the notebook, that are read here."""

    images: PositiveInt
    seconds: float


def rehearse(cfgs: Sequence[Config], base: Path, name: str = "") -> list[RehearsalRun]:
    """Bundle the configs, and run the submission notebook on the known test set and on a mock hidden one.

    Writes: dist/rehearsal/<name>/<known or hidden>/: a folder like /kaggle, the notebook with outputs, a log

    Args:
        base: a Python interpreter with the packages of Kaggle's image.
        name: as for `bundle`.
    """
    log.info("base interpreter: %s", describe_base(base))
    made = bundle(cfgs, name=name)
    folder, card = REHEARSALS / made.bundle.record.name, made.bundle.card
    slug = next(iter(competition_slugs(card)), card.name)
    nested = f"competitions/{slug}", f"datasets/{made.owner}/"  # the newer layout (from memory, not verified)
    return [
        _run("known", made, folder / "known", write_known, slug, "", base, {}),
        _run("hidden", made, folder / "hidden", write_hidden, *nested, base, RERUN),
    ]


def _run(
    name: str,
    made: BundleResult,
    folder: Path,
    write_competition: Callable[[Competition, Path, Path], object],
    competition: str,
    datasets: str,
    base: Path,
    variables: Mapping[str, str],
) -> RehearsalRun:
    """Run the notebook on one test set.

    Args:
        write_competition: writes the competition's files; from its card, the folder of the real ones and the target.
        competition: the folder below input/ where Kaggle mounts the competition's files.
        datasets: the path below input/ in front of a dataset's slug.
    """
    log.info("rehearsing on the %s test set", name)
    card, root = made.bundle.card, folder / "kaggle"
    inputs = {competition: partial(write_competition, card, made.root)}
    for suffix in DATASETS:
        slug = datasets + make_title(made.bundle.record.name, suffix)
        inputs[slug] = partial(shutil.copytree, made.folder / suffix)
    make_kaggle_root(root, inputs)
    python = make_environment(folder / "environment", base)
    notebook = made.folder / "notebook" / NOTEBOOKS["notebook"].path.name
    run = run_notebook(notebook, root, python, {"KAGGLE_KERNEL_RUN_TYPE": "Batch", **variables})
    data = root / "input" / competition
    csv, sample = root / "working/submission.csv", data / card.files.sample_submission
    record = _read_record(csv.with_suffix(".json"))
    return RehearsalRun(
        name,
        sample_rows(card, sample)["image_id"].nunique(),
        run,
        _problem(csv, card, data),
        record.get("problems", {}),
        record["seconds"] / record["images"] if record.get("images") else float("nan"),
        compare_csvs(csv, made.done.csv, card) if name == "known" and csv.is_file() else None,
    )


def _read_record(path: Path) -> dict[str, Any]:
    """What the notebook wrote next to its CSV; empty if it failed before that."""
    return read_json(path, "the notebook failed, see its log", RunRecord) if path.is_file() else {}


def _problem(csv: Path, card: Competition, data: Path) -> str | None:
    """The reason why Kaggle would refuse a CSV, or None."""
    try:
        check_csv(csv, card, data)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def compare_csvs(csv: Path, other: Path, card: Competition) -> str:
    """Describe how many masks differ between two CSVs."""
    tables = [read_table(path, card.columns.header) for path in (csv, other)]
    if not tables[0][card.columns.keys].equals(tables[1][card.columns.keys]):
        return f"ids differ from those of {other}"
    rles = [table[card.columns.rle] for table in tables]
    return f"{(rles[0] != rles[1]).sum()} of {len(rles[0])} rows differ from {other}"
