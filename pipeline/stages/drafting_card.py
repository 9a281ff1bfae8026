"""The stage `card`: draft a card from the files of a competition, which may still be zipped."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

from pipeline import competition
from pipeline.card_draft.draft import CardDraft
from pipeline.card_draft.drafting import draft_card as draft_from_files
from pipeline.card_draft.listing import list_files
from pipeline.card_draft.text import to_toml
from pipeline.competition import DRAFTED_SAMPLE
from pipeline.data.index import test_search
from pipeline.files import write_text
from pipeline.kaggle.archive import is_unpacked_beside, unpack_copy
from pipeline.quoting import shortened
from pipeline.submission import write_empty_sample

CARDS = Path("cards")


class DraftedCard(NamedTuple):
    """What the stage `card` wrote."""

    path: Path
    draft: CardDraft
    root: Path  # of the files, unpacked
    is_kept: bool  # the card existed and was not changed


def draft_card(data: Path, name: str = "", metric: str = "", table: str = "") -> DraftedCard:
    """Draft the card of a data folder.

    Reads:  every table and name below `data`, or the zips in it, unpacked into data/<name>/; some images and masks
    Writes: cards/<name>.toml, if there is none; data/<card>/, if there is no sample submission: see `with_sample`

    Args:
        data: folder of the competition's files, with zips or without; or one zip.
        name: of the competition; empty: that of the folder.
        metric, table: as for `card_draft.drafting.draft_card`.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: if the files do not show what the labels are, or a name or metric does not fit.
    """
    name = card_name(data, name)
    root = files_root(data, name)
    draft = draft_from_files(list_files(root), name, metric, table)
    path = card_file(name)
    is_kept = path.exists()
    if not is_kept:
        write_text(path, to_toml(draft, "Drafted by `make card` from the files. Lines that say so are not sure."))
    if draft.value("files.sample_submission") == DRAFTED_SAMPLE:
        root = with_sample(path.as_posix(), root)
    return DraftedCard(path, draft, root, is_kept)


def with_sample(card_name: str, root: Path) -> Path:
    """The folder of the files with a sample submission; if the card names a drafted one, data/<card>/.

    Writes: data/<card>/drafted_sample_submission.csv, with a row for each test image and class, or the header only if
        there are no test images; and beside it links to the files in `root`

    Args:
        card_name: of a card that exists.

    Raises:
        FileNotFoundError, ValueError: as `competition.load`; ValueError if data/<card>/ has links to other files.
    """
    card = competition.load(card_name)
    if card.files.sample_submission != DRAFTED_SAMPLE:
        return root
    folder = Path("data") / card.name
    folder.mkdir(parents=True, exist_ok=True)
    if root.resolve() != folder.resolve():
        for path in sorted(root.iterdir()):
            _link(path, folder / path.name)
    ids = sorted(test_search(card, folder).find_sources(hidden=True))
    write_empty_sample(folder / DRAFTED_SAMPLE, card, ids)
    return folder


def files_of(card_name: str, data: Path) -> Path:
    """The folder that has all files of a card, for the one that a person gives, as it came or was unpacked.

    Writes: data/<card>/, if `data` is or has zips, or if the card names a drafted sample submission

    Args:
        card_name: of an included card, or the path of a card.
        data: if it does not exist, it is returned, and the stage that reads it says so.

    Raises:
        FileNotFoundError, ValueError: as `competition.load`, `files_root` and `with_sample`.
    """
    return with_sample(card_name, files_root(data, competition.load(card_name).name)) if data.exists() else data


def card_file(name: str) -> Path:
    """The file of a drafted card."""
    return CARDS / f"{name}.toml"


def card_name(data: Path, name: str = "") -> str:
    """The name of the card of a folder, or a zip: as given, or that of the folder.

    Raises:
        FileNotFoundError, ValueError: as `draft_card`.
    """
    if not data.exists():
        raise FileNotFoundError(f"{data}: no such folder: give the folder of the competition's files, as DATA=folder")
    if not name:
        found = data.resolve().stem if data.is_file() else data.resolve().name
        return re.sub(r"[^A-Za-z0-9_-]+", "-", found).strip("-_") or "competition"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"NAME={shortened(name)}: expected letters, digits, '-' and '_', as in NAME=my-competition")
    return name


def files_root(data: Path, name: str) -> Path:
    """The folder of the files: `data`, or, if it is a zip or holds some, data/<name>/ with their content.

    The zips stay, and those that were unpacked beside themselves are left out. What is beside them is linked, or copied
    where links cannot be made.
    """
    folder = Path("data") / name
    if data.is_file():
        zips = [data]
    else:
        found = sorted(path for path in data.iterdir() if path.suffix.lower() == ".zip")
        zips = [path for path in found if not is_unpacked_beside(path)]
    if not zips:
        return data
    if data.is_file() and data.suffix.lower() != ".zip":
        raise ValueError(f"{data}: expected a folder, or a zip: give the folder of the competition's files")
    for archive in zips:
        unpack_copy(archive, folder, alone=data.is_file())
    if data.is_dir() and data.resolve() != folder.resolve():
        for path in sorted(path for path in data.iterdir() if path.suffix.lower() != ".zip"):
            _link(path, folder / path.name)
    return folder


def _link(path: Path, target: Path) -> None:
    """Link to a file or folder, unless a file is there.

    Raises:
        ValueError: if a link to another file, or to none, is there.
    """
    if target.is_symlink() and target.resolve() != path.resolve():
        raise ValueError(
            f"{target} is a link to {target.resolve()}, not to {path}: remove {target.parent}, or give another NAME"
        )
    if target.exists() or path.name == DRAFTED_SAMPLE:
        return
    try:
        target.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    except OSError:  # Windows, without the right to make links
        shutil.copytree(path, target) if path.is_dir() else shutil.copy2(path, target)
