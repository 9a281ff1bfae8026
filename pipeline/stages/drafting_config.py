"""The stage `config`: measure the data of a competition, and draft a config from that."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline import competition
from pipeline.competition import Competition
from pipeline.config import WITHOUT_MODEL, Config
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.duplicates import merge_groups, read_duplicates
from pipeline.duplicates.search import search_duplicates
from pipeline.files import write_text
from pipeline.planning.config_draft import draft_config as draft_options
from pipeline.planning.config_options import ConfigDraft
from pipeline.planning.config_text import to_text
from pipeline.planning.fingerprint import Fingerprint, measure
from pipeline.quoting import quoted, shortened
from pipeline.schema import parse
from pipeline.stages.drafting_card import card_file, files_of
from pipeline.stages.preparing import Paths, index_test_images, index_training_images, make_data
from pipeline.stages.train_test_shift import with_groups

log = logging.getLogger(__name__)
SEARCHED_PIXELS = 1e9  # of all images, up to which near-duplicates are searched here; the stage `folds` always does


class DraftedConfig(NamedTuple):
    """A drafted config, and what it follows from."""

    path: Path
    draft: ConfigDraft
    fingerprint: Fingerprint
    written: bool = False  # false if a config of this name was kept


def draft_config(
    name: str, card_name: str = "", data_root: Path | None = None, *, skip_bad: bool = False
) -> DraftedConfig:
    """The stage `config`: draft a config from the images and masks of a competition, and write it.

    Args:
        data_root: the folder of the files; None: data/<card>.
        name, card_name, skip_bad: as for `measure_and_draft`.

    Writes: configs/<name>.toml, unless it exists; as `measure_and_draft`, and `files_of` of the stage `card`

    Raises:
        FileNotFoundError, ValueError: as `measure_and_draft` and `files_of`.
    """
    config_file(name)  # an invalid name is refused first
    card_name = card_name or _card_of(name)
    if data_root is not None:
        data_root = files_of(card_name, data_root)
    drafted = measure_and_draft(name, card_name, data_root, skip_bad=skip_bad)
    if drafted.path.exists():
        return drafted
    head = config_head(name, competition.load(card_name), drafted.fingerprint)
    write_text(drafted.path, to_text(drafted.draft, head))
    return drafted._replace(written=True)


def measure_and_draft(name: str, card_name: str, data_root: Path | None, *, skip_bad: bool = False) -> DraftedConfig:
    """Draft a config from the images and masks of a competition; no config is written.

    Args:
        name: of the config.
        card_name: of an included card, or the path of a card.
        data_root: the folder of the files, with a sample submission; None: data/<card>.
        skip_bad: leave out images that cannot be read, in the config too.

    Writes: folds/<card>.duplicates.csv, unless there are folds

    Raises:
        FileNotFoundError, ValueError: for a card that does not exist or is not valid, as `read_index` and
            `fingerprint.measure`, and for an invalid name.
    """
    path, card = config_file(name), competition.load(card_name)
    tables = {"name": name, "competition": card_name, "data": {"root": data_root, "skip_bad": skip_bad}}
    cfg = parse(Config, {**tables, "train": WITHOUT_MODEL}, str(path))
    paths = Paths(cfg, card)
    make_data(card, paths)
    index, test_index = index_training_images(cfg, card, paths), index_test_images(cfg, card, paths)
    pairs = _near_duplicates(cfg, card, paths, index, test_index)
    compared = with_groups(card, index, test_index, pairs)
    index = index if pairs is None else index.assign(group=merge_groups(index, pairs))
    index, test_index = (
        each.assign(compared_group=of_both["group"])
        for each, of_both in zip((index, test_index), compared, strict=True)
    )
    found = measure(card, index, test_index, Labels.of(card), None if pairs is None else len(pairs))
    draft = draft_options(card, found, card_name, None if data_root is None else str(data_root))
    if skip_bad:
        draft = draft.with_option("data.skip_bad", True, "as asked: images that cannot be read are left out")
    parse(Config, {"name": name, **draft.tables()}, str(path))  # what is written can be loaded
    return DraftedConfig(path, draft, found)


def config_file(name: str) -> Path:
    """The file of a config.

    Raises:
        ValueError: for an invalid name.
    """
    if not name or Path(name).name != name or name.endswith(".toml"):
        raise ValueError(f"name {quoted(shortened(name))}: expected one such as mine, for configs/mine.toml")
    return Path("configs") / f"{name}.toml"


def _card_of(name: str) -> str:
    """The card of a config's name, if none is given: cards/<name>.toml, or the included card of this name."""
    path = card_file(name)
    if path.is_file():
        return path.as_posix()
    if name in competition.known_cards():
        return name
    raise FileNotFoundError(
        f"{path}: no such card: make card DATA=folder NAME={name} drafts it from the files, or give another one with "
        f"CARD=name (make) or --card"
    )


def _near_duplicates(
    cfg: Config, card: Competition, paths: Paths, index: pd.DataFrame, test_index: pd.DataFrame
) -> pd.DataFrame | None:
    """The near-duplicates; None if they were not searched, because there are folds already, or too many pixels."""
    if paths.duplicates.exists():
        return read_duplicates(paths.duplicates)
    images = pd.concat([index.assign(part="train"), test_index.assign(part="test")], ignore_index=True)
    if paths.folds.exists() or (images["height"] * images["width"]).sum() > SEARCHED_PIXELS:
        return None
    with paths.lock():
        if not paths.duplicates.exists():
            # As the fingerprint does: pixels that are not finite are no reason to stop here.
            reader = replace(Reader.of(cfg, card), nodata="zero")
            search_duplicates(paths.duplicates, images, reader)
    return read_duplicates(paths.duplicates)


def config_head(name: str, card: Competition, found: Fingerprint) -> list[str]:
    """The lines of the comment that a drafted config begins with."""
    return [
        f"{card.title}: drafted from {found.images:,} training images by make config, each option with its reason.",
        "",
        f"  make ensemble CONFIG={name}",
        "",
        "Scores:  not measured yet",
    ]
