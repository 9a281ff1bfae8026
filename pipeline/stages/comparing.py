"""The stages `compare`, `final` and `pseudo`: paired comparison, final selection, and the gain of pseudo-labels."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline import competition, config
from pipeline.config import Config
from pipeline.data.tables import read_table
from pipeline.manifest import ensemble_command, read_submission_manifest
from pipeline.metrics import Scores
from pipeline.pseudo_labels import read_labels
from pipeline.report.report_data import PseudoGain
from pipeline.stages.ensembling import DENOMINATOR, NUMERATOR
from pipeline.stages.labelling import source_of_labels, with_pseudo
from pipeline.stages.preparing import Context, count_test_images, make_context, scores_at_half
from pipeline.stages.training import oof_of
from pipeline.statistics.bootstrap import Difference, paired
from pipeline.statistics.shakeup import Shakeup, simulate
from pipeline.statistics.trainings import TrainingSpread, training_spread


class Compared(NamedTuple):
    """Two configs or ensembles on the same images."""

    a: float  # cross-fitted score
    b: float
    difference: Difference  # a − b
    images: int
    groups: int
    same_folds: bool
    trainings: TrainingSpread  # not in the interval
    machines: tuple[str, str] | None  # descriptions, if they differ: they may explain a part of the difference


def compare(a: str, b: str) -> Compared:
    """Compare `a` with `b` by a paired bootstrap of their cross-fitted scores per image.

    Args:
        a, b: names of configs, or of ensembles as in "x+y", that the stage `ensemble` has run on.

    Raises:
        FileNotFoundError: for a name without scores; the message has the command that makes them.
        ValueError: if they are of different images, competitions or metrics.
    """
    first, second = _same_images([a, b])
    scores = scores_of(first), scores_of(second)
    return Compared(
        scores[0].mean(),
        scores[1].mean(),
        paired(*scores, first["group"].to_numpy(), optimism=(_optimism_of(a), _optimism_of(b))),
        len(first),
        first["group"].nunique(),
        first["fold"].equals(second["fold"]),
        training_spread(_scores_of_seeds([a, b])),
        _other_machines(a, b),
    )


def _optimism_of(name: str) -> float:
    """In-sample minus cross-fitted score of a submission; 0 if its manifest has not both."""
    manifest = _manifest_of(name)
    in_sample, score = (manifest.get(key) for key in ("oof_score_in_sample", "oof_score"))
    return 0.0 if in_sample is None or score is None else in_sample - score


def _scores_of_seeds(names: Sequence[str]) -> list[list[float]]:
    """For each config, the scores of all submissions that differ from it in the seed at most, one for each seed."""
    scores: dict[str, dict[str, float]] = {_settings_of(_manifest_of(name)): {} for name in names}
    for path in sorted(Path("submissions").glob("*.json")):
        if not path.name.endswith(".kaggle.json"):
            manifest = _manifest_of(path.stem)
            of_seeds, score = scores.get(_settings_of(manifest)), manifest.get("oof_score")
            if of_seeds is not None and score is not None:
                of_seeds[str([each.get("seed") for each in manifest["configs"].values()])] = score
    return [list(each.values()) for each in scores.values()]


def _settings_of(manifest: dict[str, Any]) -> str:
    """The settings of a submission's configs without their seeds, and the trained folds."""
    configs = [{**each, "seed": 0} for each in manifest.get("configs", {}).values()]
    return json.dumps([configs, list(manifest.get("folds", {}).values())])


def _other_machines(*names: str) -> tuple[str, str] | None:
    """Descriptions of the machines that trained two submissions; None if they are equal, or one is not recorded."""
    one, other = (_describe_machines(_manifest_of(name).get("machines", {})) for name in names)
    return (one, other) if one and other and one != other else None


def _describe_machines(machines: dict[str, list[dict[str, Any]]]) -> str:
    found = {
        f"{each['device']} with {each['threads']} threads" for of_config in machines.values() for each in of_config
    }
    return " and ".join(sorted(found)).replace(" 1 threads", " 1 thread")


def _manifest_of(name: str) -> dict[str, Any]:
    """The manifest of a submission; empty if there is none."""
    path = Path("submissions") / f"{name}.json"
    return read_submission_manifest(path) if path.exists() else {}


class Final(NamedTuple):
    """The simulated shake-up of several submissions."""

    names: list[str]
    scores: list[float]  # cross-fitted
    boards: Shakeup
    test_images: int
    public_share: float


def final(names: Sequence[str], card_name: str, root: Path | None = None) -> Final:
    """Simulate public and private scores of several submissions, from the scores of their training images.

    Args:
        names: as those of `compare`.
        card_name: the competition's card, which has the number of test images and the share of public ones.
        root: the data folder; its sample submission is counted if the card has no number of images.

    Raises:
        As `compare`; ValueError for fewer than two names, one that is given twice, or one of another competition.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"SUBMISSIONS='{' '.join(names)}': give two or more names, each once")
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
        manifest = _manifest_of(name)
        if (found := manifest.get("competition", card_name)) != card_name:
            card = next((each.get("competition") for each in manifest.get("configs", {}).values()), None) or found
            raise ValueError(
                f"{name} is a submission for {found}, not for {card_name}: use COMPETITION={card} (make) or "
                f"--competition {card}"
            )


def pseudo(cfg: Config) -> PseudoGain:
    """Train a config on test images labelled by its source, and measure the gain out of fold.

    A config without `train.pseudo` gets a companion `<config>_pseudo` that trains on its own labels.

    Writes: runs/<config>/ with pseudo/ in it; missing files of the source; configs/<config>_pseudo.toml, if it is
    missing

    Raises:
        ValueError: for a companion of a config that was changed on the command line: its file makes the labels.
    """
    _refuse_changed(cfg)
    labelled = make_context(with_pseudo(cfg))
    source = make_context(source_of_labels(labelled.cfg))
    for member in (source, labelled):
        oof_of(member)
    return gain_of(labelled, source)


def _refuse_changed(cfg: Config) -> None:
    file = Path("configs") / f"{cfg.name}.toml"
    if cfg.train.pseudo is None and _trained_by(config.load(file)) != _trained_by(cfg):
        raise ValueError(
            f"labels come from {cfg.name} as in {file}, but other settings were given: they would be "
            f"a part of the difference. Write them into that file, or leave them out"
        )


def gain_of(labelled: Context, source: Context) -> PseudoGain:
    """The gain of pseudo-labels, from the OOF predictions of the folds that both configs have."""
    folds = sorted(set(labelled.fold_numbers()) & set(source.fold_numbers()))
    rows = labelled.index.merge(labelled.folds[labelled.folds["fold"].isin(folds)], on="image_id")
    with_, without = (scores_at_half(member, rows) for member in (labelled, source))
    by_fold = [
        {
            "fold": fold,
            "labelled": len(read_labels(labelled.paths.pseudo(fold), fold)),
            "with": with_.take(held_out).mean(),
            "without": without.take(held_out).mean(),
        }
        for fold in folds
        for held_out in [(rows["fold"] == fold).to_numpy()]
    ]
    return PseudoGain(
        labelled.cfg.name,
        source.cfg.name,
        pd.DataFrame(by_fold),
        (with_.mean(), without.mean()),
        paired(with_, without, rows["group"].to_numpy()),
    )


def _trained_by(cfg: Config) -> dict[str, Any]:
    """The settings of a config that affect its results, without those that `load_beside` takes from another."""
    given = {"root", "skip_bad", "exif"}
    return cfg.model_dump(exclude={"data": given, "train": {"workers", "trackers"}, "predict": {"batch_size"}})


def _same_images(names: Sequence[str]) -> list[pd.DataFrame]:
    """The scores of submissions to one competition on the same images, by the same metric.

    A competition of the same images and metric may have other labels.
    """
    tables = [read_scores(name) for name in names]
    manifests = {name: _manifest_of(name) for name in names}
    for key in ("competition", "selection_metric"):
        known = [(name, found) for name, manifest in manifests.items() if (found := manifest.get(key))]
        for (first, one), (name, other) in pairwise(known):
            if one != other:
                raise ValueError(
                    f"{first} and {name} have different values of {key}, {one} and {other}: their scores cannot be "
                    f"compared"
                )
    for name, table in zip(names, tables, strict=True):
        unshared = sorted(set(table["image_id"]) ^ set(tables[0]["image_id"]))
        if unshared:
            raise ValueError(
                f"{names[0]} and {name} were scored on different images, {len(unshared)} are in one only, the first "
                f"is '{unshared[0]}': compare configs of one competition, with the same FOLDS"
            )
    return tables


def read_scores(name: str) -> pd.DataFrame:
    """Read the cross-fitted score of each training image, as `ensembling.write_scores` wrote it; sorted by id.

    Raises:
        FileNotFoundError: if the stage `ensemble` has not run; the message has the command.
        ValueError: if an image occurs twice, or a member of the ensemble has no OOF predictions.
    """
    path = Path("submissions") / f"{name}.oof.csv"
    if _manifest_of(name).get("blend"):
        raise ValueError(
            f"{name} is a blend of CSVs, which have no OOF scores: compare the ensembles that it is made of"
        )
    if unscored := _manifest_of(name).get("unscored"):
        raise ValueError(
            f"{name}: {', '.join(unscored)} has no OOF predictions, so its score is that of the other members: "
            f"leave it out of a comparison"
        )
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file: run {ensemble_command(name)} first")
    table = read_table(path, ["image_id", "fold", "group", "score"])
    twice = table["image_id"][table["image_id"].duplicated()]
    if len(twice):
        raise ValueError(f"{path}: image '{twice.iloc[0]}' occurs twice: run make ensemble again")
    return table.sort_values("image_id", ignore_index=True)


def scores_of(table: pd.DataFrame) -> Scores:
    """The scores in a table: numerator and denominator by class, or the image's score if the metric is a plain mean."""
    classes = [column.removeprefix(NUMERATOR) for column in table if column.startswith(NUMERATOR)]
    if not classes:
        return Scores.from_values(table["score"].astype(float).to_numpy())
    columns = ([prefix + name for name in classes] for prefix in (NUMERATOR, DENOMINATOR))
    return Scores(*(table[each].astype(float).to_numpy() for each in columns))
