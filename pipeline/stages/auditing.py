"""The stage `audit`: which images are of one scene, whether the folds part them, and what such a leak is worth."""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from pipeline.config import Config
from pipeline.data.index import read_index, read_test_index
from pipeline.data.reader import Reader, stretch
from pipeline.data.tables import read_table
from pipeline.duplicates import merge_groups
from pipeline.report.overlays import COLUMNS, Panel, write_sheet
from pipeline.stages.preparing import Paths, check, find_all_duplicates, make_context, make_data, scores_at_half
from pipeline.stages.training import oof_of
from pipeline.statistics.bootstrap import Difference, paired
from pipeline.symmetries import SYMMETRIES

SIDE = 256  # pixels to which a picture of the sheet is brought


class Audited(NamedTuple):
    """What the stage `audit` found."""

    pairs: pd.DataFrame  # number of pairs by kind and by the parts that they lie in
    images: int
    groups: int  # of training images, after joining what belongs together
    largest: int  # images of the largest group
    parted: int | None  # pairs of training images in different folds; None while there are no folds
    folds: Path
    table: Path
    sheet: Path | None  # pictures of pairs of each kind; None without pairs


def audit(cfg: Config) -> Audited:
    """Look for near-duplicates among training and test images, and draw some.

    Writes: folds/<name>.duplicates.csv, which folds made from now on keep together; reports/<name>-duplicates.png
    """
    card = check(cfg)
    paths = Paths(cfg, card)
    make_data(card, paths)
    reader = Reader.of(cfg)
    index = read_index(card, paths.root, cfg.data.skip_bad, reader)
    pairs = find_all_duplicates(cfg, card, paths, index)
    sizes = merge_groups(index, pairs).value_counts()
    parts = pairs["first_part"].where(pairs["first_part"] == pairs["second_part"], "train and test")
    counts = pairs.assign(parts=parts).groupby(["kind", "parts"]).size().rename("pairs").reset_index()
    sheet = Path("reports") / f"{paths.folds.stem}-duplicates.png" if len(pairs) else None
    if sheet:
        test = read_test_index(card, paths.root, cfg.data.skip_bad, reader)
        _draw(sheet, pairs, {"train": _paths(index), "test": _paths(test)}, reader)
    parted = _parted(paths.folds, pairs)
    return Audited(counts, len(index), len(sizes), int(sizes.iloc[0]), parted, paths.folds, paths.duplicates, sheet)


def _paths(index: pd.DataFrame) -> dict[str, Path]:
    return dict(zip(index["image_id"], index["path"], strict=True))


def _parted(path: Path, pairs: pd.DataFrame) -> int | None:
    if not path.exists():
        return None
    fold = read_table(path, ["image_id", "fold"]).set_index("image_id")["fold"]
    known = pairs["first"].isin(fold.index) & pairs["second"].isin(fold.index)  # not those left out as bad
    within = pairs[known & (pairs["first_part"] == "train") & (pairs["second_part"] == "train")]
    return int((within["first"].map(fold) != within["second"].map(fold)).sum())


def _draw(path: Path, pairs: pd.DataFrame, paths: dict[str, dict[str, Path]], reader: Reader) -> None:
    """Of each kind, pairs from the surest to the least sure."""
    rows, percentiles = {}, reader.percentiles or (0, 100)
    for kind, of_kind in pairs.sort_values("score", ascending=False, kind="stable").groupby("kind"):
        shown = of_kind.iloc[np.unique(np.linspace(0, len(of_kind) - 1, COLUMNS).astype(int))]
        title = f"{kind}: {len(of_kind)} pairs, from the surest to the least sure"
        rows[title] = [
            Panel(
                f"{row.score:.2f}  {row.first[:8]}, {row.second[:8]} ({row.second_part})",
                _side_by_side(
                    stretch(reader.glance(paths[row.first_part][row.first], channels=3), percentiles),
                    stretch(reader.glance(paths[row.second_part][row.second], channels=3), percentiles),
                    row,
                ),
                masks=None,
            )
            for row in shown.itertuples()
        ]
    write_sheet(path, rows)


def _side_by_side(first: np.ndarray, second: np.ndarray, pair: object) -> np.ndarray:
    """Neighbours as they continue; else both beside each other, the second turned as the first."""
    if pair.kind == "neighbour":
        if min(pair.down, pair.right) < 0:
            first, second = second, first
        return np.concatenate([first, second], axis=0 if pair.down else 1)
    turned = np.stack([SYMMETRIES[pair.view](second[..., channel]) for channel in range(3)], axis=2)
    first, turned = (
        cv2.resize(np.ascontiguousarray(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA) for image in (first, turned)
    )
    return np.concatenate([first, np.full((SIDE, SIDE // 32, 3), 255, np.uint8), turned], axis=1)


class Inflation(NamedTuple):
    """What a split that parts related images pretends."""

    random: float  # OOF score at threshold .5 of the random split
    grouped: float  # of the split that keeps groups and near-duplicates together
    difference: Difference  # random − grouped, image by image, with an interval over groups
    images: int


def inflation(cfg: Config) -> Inflation:
    """Train the config on both splits, and compare the OOF scores of the same images.

    Writes: runs/<config>/ and runs/<config>_random/; folds/<name>_random.csv

    Raises:
        ValueError: if no two training images belong together: nothing could leak, and both splits would be one.
    """
    grouped = make_context(cfg)
    if grouped.index["group"].is_unique:
        raise ValueError(
            f"{grouped.card.name}: no two training images belong together, by columns.group or "
            f"{grouped.paths.duplicates}: a random split leaks nothing, so there is no inflation to measure"
        )
    name = f"{grouped.paths.folds.stem}_random"
    loose = cfg.folds.model_copy(update={"name": name, "grouped": False})
    random = make_context(cfg.model_copy(update={"name": f"{cfg.name}_random", "folds": loose}))
    scores = []
    for split in (random, grouped):
        oof_of(split)
        scores.append(scores_at_half(split, grouped.index))
    difference = paired(*scores, grouped.index["group"].to_numpy())
    return Inflation(scores[0].mean(), scores[1].mean(), difference, len(grouped.index))
