"""The stages `compare`, `final` and `pseudo`: which is better, which two to choose, what more data gave."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline import competition
from pipeline.config import Config
from pipeline.data.tables import read_table
from pipeline.manifest import read_submission_manifest
from pipeline.metrics import Scores
from pipeline.pseudo_labels import read_labels
from pipeline.stages.ensembling import DENOMINATOR, NUMERATOR
from pipeline.stages.labelling import load_beside, source_of_labels, with_pseudo
from pipeline.stages.preparing import Context, count_test_images, make_context, scores_at_half
from pipeline.stages.training import oof_of
from pipeline.statistics.bootstrap import Difference, paired
from pipeline.statistics.shakeup import Shakeup, simulate


class Compared(NamedTuple):
    """Two configs or ensembles on the same images."""

    a: float  # cross-fitted score
    b: float
    difference: Difference  # a − b
    images: int
    groups: int
    same_folds: bool
    machines: tuple[str, str] | None  # in words, where they differ: a part of the difference may come from them


def compare(a: str, b: str) -> Compared:
    """Whether `a` beats `b`: a paired bootstrap of their cross-fitted scores, image by image.

    Args:
        a, b: names of configs, or of ensembles as in "x+y", that the stage `ensemble` has run on.

    Raises:
        FileNotFoundError: for a name without scores, with the command that makes them.
        ValueError: if they are of different images.
    """
    first, second = _same_images([a, b])
    scores = scores_of(first), scores_of(second)
    return Compared(
        scores[0].mean(),
        scores[1].mean(),
        paired(*scores, first["group"].to_numpy()),
        len(first),
        first["group"].nunique(),
        first["fold"].equals(second["fold"]),
        _other_machines(a, b),
    )


def _other_machines(*names: str) -> tuple[str, str] | None:
    """The machines that two submissions' models were trained on, in words; None if alike, or if one does not say."""
    one, other = (_in_words(_manifest_of(name).get("machines", {})) for name in names)
    return (one, other) if one and other and one != other else None


def _in_words(machines: dict[str, list[dict[str, Any]]]) -> str:
    found = {
        f"{each['device']} with {each['threads']} threads" for of_config in machines.values() for each in of_config
    }
    return " and ".join(sorted(found)).replace(" 1 threads", " 1 thread")


def _manifest_of(name: str) -> dict[str, Any]:
    """What was written beside a submission; nothing where there is none."""
    path = Path("submissions") / f"{name}.json"
    return read_submission_manifest(path) if path.exists() else {}


class Final(NamedTuple):
    """Simulated boards of several submissions."""

    names: list[str]
    scores: list[float]  # cross-fitted
    boards: Shakeup
    test_images: int
    public_share: float


def final(names: Sequence[str], card_name: str, root: Path | None = None) -> Final:
    """Simulate the end of a competition with several submissions, from the scores of their training images.

    Args:
        names: as those of `compare`.
        card_name: of the competition; it says how many test images there are, and which share of them is public.
        root: the data folder, whose sample submission is counted where the card does not say how many images there are.

    Raises:
        As `compare`; ValueError for fewer than two names, one that is given twice, or one of another competition.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(
            f"SUBMISSIONS='{' '.join(names)}': give two or more names, each once: the choice is between them"
        )
    card = competition.load(card_name)
    _refuse_other_competition(names, card.name)
    tables = _same_images(list(names))
    share = card.leaderboard.public_share
    test_images = count_test_images(card, root or Path("data") / card.name)
    scores = [scores_of(table) for table in tables]
    boards = simulate(scores, tables[0]["group"].to_numpy(), public_share=share, test_images=test_images)
    return Final(list(names), [each.mean() for each in scores], boards, test_images, share)


def _refuse_other_competition(names: Sequence[str], card_name: str) -> None:
    for name in names:
        if (found := _manifest_of(name).get("competition", card_name)) != card_name:
            raise ValueError(
                f"{name} is a submission for {found}, not for {card_name}: say COMPETITION={found} (make) or "
                f"--competition {found}"
            )


class PseudoGain(NamedTuple):
    """What training on pseudo-labels changed."""

    name: str  # of the config with labels
    source: str  # of the one without
    folds: pd.DataFrame  # fold, labelled (test images), with, without
    scores: tuple[float, float]  # with and without, out of fold at threshold .5
    difference: Difference  # with − without, over groups


def pseudo(cfg: Config) -> PseudoGain:
    """Train a config on the test images that its source labels, and say what that changed out of fold.

    A config without `train.pseudo` gets a companion `<config>_pseudo` that trains on its own labels.

    Writes: runs/<config>/ with pseudo/ in it; all that is missing of the source; configs/<config>_pseudo.toml, if a
    companion has none yet

    Raises:
        ValueError: for a companion of a config that was changed on the command line: labels come from the file's.
    """
    _refuse_changed(cfg)
    labelled = make_context(with_pseudo(cfg))
    source = make_context(source_of_labels(labelled.cfg))
    for member in (source, labelled):
        oof_of(member)
    return gain_of(labelled, source)


def _refuse_changed(cfg: Config) -> None:
    if cfg.train.pseudo is None and _trained_by(load_beside(cfg, cfg.name)) != _trained_by(cfg):
        raise ValueError(
            f"labels come from {cfg.name} as configs/{cfg.name}.toml has it, and other settings were asked for: the "
            f"difference would be theirs too. Write them into that file, or leave them out"
        )


def gain_of(labelled: Context, source: Context) -> PseudoGain:
    """What labels changed, of two configs that predicted all folds."""
    rows = labelled.index.merge(labelled.folds, on="image_id")
    with_, without = (scores_at_half(member, rows) for member in (labelled, source))
    folds = [
        {
            "fold": fold,
            "labelled": len(read_labels(labelled.paths.pseudo(fold), fold)),
            "with": with_.take(held_out).mean(),
            "without": without.take(held_out).mean(),
        }
        for fold in labelled.fold_numbers()
        for held_out in [(rows["fold"] == fold).to_numpy()]
    ]
    return PseudoGain(
        labelled.cfg.name,
        source.cfg.name,
        pd.DataFrame(folds),
        (with_.mean(), without.mean()),
        paired(with_, without, rows["group"].to_numpy()),
    )


def _trained_by(cfg: Config) -> dict[str, Any]:
    """A config without what only decides how fast it runs."""
    return cfg.model_dump(exclude={"train": {"workers", "tensorboard"}, "predict": {"batch_size"}})


def _same_images(names: Sequence[str]) -> list[pd.DataFrame]:
    tables = [read_scores(name) for name in names]
    for name, table in zip(names, tables, strict=True):
        unshared = sorted(set(table["image_id"]) ^ set(tables[0]["image_id"]))
        if unshared:
            raise ValueError(
                f"{names[0]} and {name} were scored on different images, {len(unshared)} are in one only, the first "
                f"is '{unshared[0]}': compare configs of one competition"
            )
    return tables


def read_scores(name: str) -> pd.DataFrame:
    """The cross-fitted score of each training image, as `ensembling.write_scores` wrote it; sorted by id.

    Raises:
        FileNotFoundError: if the stage `ensemble` has not run, with the command.
        ValueError: if an image is there twice.
    """
    path = Path("submissions") / f"{name}.oof.csv"
    if not path.exists():
        raise FileNotFoundError(f'{path}: no such file: run make ensemble CONFIGS="{name.replace("+", " ")}" first')
    table = read_table(path, ["image_id", "fold", "group", "score"])
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise ValueError(f"{path}: image '{twice.iloc[0]}' is there twice: run make ensemble again")
    return table.sort_values("image_id", ignore_index=True)


def scores_of(table: pd.DataFrame) -> Scores:
    """The scores in a table: numerator and denominator by class, or the image's score if the metric is a plain mean."""
    classes = [column.removeprefix(NUMERATOR) for column in table if column.startswith(NUMERATOR)]
    if not classes:
        return Scores.from_values(table["score"].astype(float).to_numpy())
    columns = ([prefix + name for name in classes] for prefix in (NUMERATOR, DENOMINATOR))
    return Scores(*(table[each].astype(float).to_numpy() for each in columns))
