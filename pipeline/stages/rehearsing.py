"""The stage `rehearse`: the notebook that submits, run here as it will run there, on two test sets."""

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
from pipeline.kaggle.descriptions import KERNELS, competitions_of, titled
from pipeline.kaggle.mock_test_set import write_hidden, write_known
from pipeline.kaggle.rehearsal import WORKING_LIMIT, Ran, describe_base, lay_out, make_environment, run_notebook
from pipeline.schema import JsonRecord, read_json
from pipeline.stages.bundling import Bundled, bundle
from pipeline.stages.submitting import check_csv
from pipeline.submission import sample_rows

log = logging.getLogger(__name__)

PLACE = Path("dist/rehearsal")
DATASETS = ("code", "weights")
RERUN = {"KAGGLE_IS_COMPETITION_RERUN": "1"}


class Act(NamedTuple):
    """One run of the notebook."""

    name: str
    images: int
    ran: Ran
    problem: str | None  # with the CSV; None: it is valid
    without: dict[str, str]  # images without a mask, and why
    per_image: float  # seconds
    differs: str | None  # from the CSV of make ensemble; None where there is none to compare with

    @property
    def passed(self) -> bool:
        """Whether this would have been a submission."""
        return self.ran.status == 0 and self.problem is None and self.ran.working < WORKING_LIMIT


class RunRecord(JsonRecord):
    """What must be in submission.json, which the notebook writes."""

    images: PositiveInt
    seconds: float


def rehearse(cfgs: Sequence[Config], base: Path) -> list[Act]:
    """Bundle the configs, and run what would run on Kaggle: on the known test set, and on one nobody has seen.

    Writes: dist/rehearsal/<name>/<known or hidden>/: a folder like /kaggle, the notebook with outputs, a log

    Args:
        base: an interpreter that has what Kaggle's image has.
    """
    log.info("the base has %s", describe_base(base))
    made = bundle(cfgs)
    folder, card = PLACE / made.bundle.record.name, made.bundle.card
    slug = next(iter(competitions_of(card)), card.name)
    plainly = _Mounts(slug, "", partial(write_known, card, made.root))
    deeply = _Mounts(f"competitions/{slug}", f"datasets/{made.owner}/", partial(write_hidden, card, made.root))
    return [
        _act("known", made, folder / "known", plainly, base, {}),
        _act("hidden", made, folder / "hidden", deeply, base, RERUN),
    ]


class _Mounts(NamedTuple):
    """Where Kaggle mounts things below input/: as ever, or as of late (from memory, not verified)."""

    competition: str
    datasets: str  # what stands before a dataset's slug
    fill: Callable[[Path], object]  # a folder with the competition's files

    def of(self, made: Bundled) -> dict[str, Callable[[Path], object]]:
        """All that is attached."""
        slugs = {word: self.datasets + titled(made.bundle.record.name, word) for word in DATASETS}
        copies = {slug: partial(shutil.copytree, made.folder / word) for word, slug in slugs.items()}
        return {self.competition: self.fill, **copies}


def _act(name: str, made: Bundled, folder: Path, mounts: _Mounts, base: Path, variables: Mapping[str, str]) -> Act:
    log.info("rehearsing on the %s test set", name)
    card, root = made.bundle.card, folder / "kaggle"
    lay_out(root, mounts.of(made))
    python = make_environment(folder / "environment", base)
    notebook = made.folder / "notebook" / KERNELS["notebook"].notebook.name
    ran = run_notebook(notebook, root, python, {"KAGGLE_KERNEL_RUN_TYPE": "Batch", **variables})
    data = root / "input" / mounts.competition
    csv, sample = root / "working/submission.csv", data / card.files.sample_submission
    record = _read(csv.with_suffix(".json"))
    return Act(
        name,
        sample_rows(card, sample)["image_id"].nunique(),
        ran,
        _problem(csv, card, data),
        record.get("problems", {}),
        record["seconds"] / record["images"] if record.get("images") else float("nan"),
        compare_csvs(csv, made.done.csv, card) if name == "known" and csv.is_file() else None,
    )


def _read(path: Path) -> dict[str, Any]:
    """What the notebook wrote beside its CSV; nothing where it did not come to that."""
    return read_json(path, "the notebook did not end well, see its log", RunRecord) if path.is_file() else {}


def _problem(csv: Path, card: Competition, data: Path) -> str | None:
    """What is wrong with a CSV, in a line."""
    try:
        check_csv(csv, card, data)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def compare_csvs(csv: Path, other: Path, card: Competition) -> str:
    """How many rows of two CSVs differ, in words."""
    tables = [read_table(path, card.columns.header) for path in (csv, other)]
    if not tables[0][card.columns.keys].equals(tables[1][card.columns.keys]):
        return f"rows differ from those of {other}"
    texts = [table[card.columns.rle] for table in tables]
    return f"{(texts[0] != texts[1]).sum()} of {len(texts[0])} rows differ from {other}"
