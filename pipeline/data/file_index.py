"""Which file belongs to which image id, and what to do where files and ids do not fit."""

import logging
import os
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.data.medical import is_nifti_name, slices_of
from pipeline.quoting import shortened

log = logging.getLogger(__name__)
say_once = lru_cache(maxsize=None)(log.info)  # files are listed, and tables read, by several stages of one command

BLANKS = " \t\r\n\v\f\xa0\u200b\ufeff"  # around names: what an editor or a spreadsheet leaves
# What systems leave beside images; and every name that begins with a dot, such as macOS's ._im1.png.
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir", "$recycle.bin"}
TRIED = 200  # ids that are compared with names to find out why they do not fit

# In what ids of a table and names of files may differ, and what is the same in both.
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "zeros at the start, which spreadsheets drop": lambda key: key.lstrip("0"),
    "capitals": str.casefold,
    "folders before the name": lambda key: key.replace("\\", "/").rpartition("/")[2],
    "'.0' at the end, which a table of numbers adds": lambda key: key.removesuffix(".0"),
}


def as_id(text: str) -> str:
    """A name as it is compared: in Unicode's composed form (macOS writes the other one), without blanks around.

    >>> as_id(" cafe\\u0301 ") == "caf\\u00e9"
    True
    """
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip(BLANKS)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's, and no data."""
    return name.startswith(".") or name.lower() in SYSTEM


@dataclass(frozen=True)
class Search:
    """Which files are looked for, and for whose ids.

    Args:
        part: of the competition.
        ids_from: the table, or the folder of masks, that the ids come from.
        folder: of the images.
        suffix, pattern: as in `find_files`.
    """

    part: Literal["training", "test"]
    ids_from: Path
    folder: Path
    suffix: str
    pattern: str | None = None

    def find(self, *, hidden: bool = False) -> dict[str, Path]:
        """Files by id, as `find_files`.

        Args:
            hidden: whether the folder may be missing, as in a code competition that shows no test images.
        """
        if hidden and not self.folder.is_dir():
            return {}
        return find_files(self.folder, self.suffix, self.pattern)

    @property
    def rule(self) -> str:
        """What a file's name must be."""
        return f"pattern '{shortened(self.pattern)}'" if self.pattern else f"suffix '{self.suffix}'"


def find_files(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, Path]:
    """Files by id: of the folder itself by their suffix, or of all folders below it by a pattern.

    A NIfTI volume (`.nii`, `.nii.gz`) is an image for each slice: its id is that of the file, "_", and the slice's
    number, from 000. Files of the system (`._x`, `Thumbs.db`, …) are left out, folders that are links are entered, and
    a file whose extension is written in other capitals belongs to its id if no other does.

    Args:
        suffix: of the file's name; what comes before it is the id.
        pattern: a regular expression for the whole path below the folder; its groups, joined by "_", are the id.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two files of one id.
    """
    files: dict[str, Path] = {}
    exact: set[str] = set()
    for image_id, path, as_written in _named(folder, suffix, pattern):
        if image_id in files and as_written == (image_id in exact):
            raise ValueError(f"{path} and {files[image_id]} are both image '{image_id}': mend the card's pattern")
        if image_id not in exact:
            files[image_id] = path
        exact |= {image_id} if as_written else set()
    return files


def find_parts(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, tuple[Path, ...]]:
    """As `find_files`, but all files of an id, sorted: a mask may have a file for each object."""
    files: dict[str, list[Path]] = {}
    for image_id, path, _ in _named(folder, suffix, pattern):
        files.setdefault(image_id, []).append(path)
    return {image_id: tuple(sorted(paths)) for image_id, paths in files.items()}


def _named(folder: Path, suffix: str, pattern: str | None) -> Iterator[tuple[str, Path, bool]]:
    """Each file with its id, and whether the extension is written as the card has it, capitals included."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: unpack the competition's images there")
    id_of = _id_by_suffix(suffix) if pattern is None else _id_by_pattern(re.compile(pattern))
    for path in _files_in(folder) if pattern is None else _files_below(folder):
        name = path.name if pattern is None else path.relative_to(folder).as_posix()
        for spelling in (name, *_other_capitals(name)):
            if (image_id := id_of(spelling)) is not None:
                yield from ((each, part, spelling == name) for each, part in _images_in(image_id, path))
                break


def _images_in(image_id: str, path: Path) -> Iterator[tuple[str, Path]]:
    """The image of a file; of a NIfTI volume its slices, each an image `<id>_<number>`."""
    if is_nifti_name(path):
        yield from ((f"{image_id}_{number}", part) for number, part in slices_of(path).items())
    else:
        yield image_id, path


def _id_by_suffix(suffix: str) -> Callable[[str], str | None]:
    return lambda name: as_id(name[: len(name) - len(suffix)]) if name.endswith(suffix) else None


def _id_by_pattern(whole: re.Pattern) -> Callable[[str], str | None]:
    def id_of(name: str) -> str | None:
        found = whole.fullmatch(name) or whole.fullmatch(unicodedata.normalize("NFC", name))
        return as_id("_".join(part for part in found.groups() if part)) if found else None

    return id_of


def _other_capitals(name: str) -> list[str]:
    """The name with its extension in small letters, and in capitals."""
    stem, dot, extension = name.rpartition(".")
    return [stem + dot + extension.lower(), stem + dot + extension.upper()] if dot else []


def _files_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_hidden(entry.name) or not entry.is_dir())
    return _visible(folder, names)


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; links to folders are followed, but for those that lead back."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not is_hidden(name) and not _leads_back(here / name)]
        found += _visible(here, names)
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    if os.name != "nt" and not folder.is_symlink():  # Windows has junctions too
        return False
    above = next((each for each in folder.parents if folder.samefile(each)), None)
    if above is not None:
        say_once("%s: a link back to %s: not followed", folder, above)
    return above is not None


def _visible(folder: Path, names: Collection[str]) -> list[Path]:
    hidden = sorted(filter(is_hidden, names))
    if hidden:
        say_once("%s: %d files of the system are left out, such as '%s'", folder, len(hidden), hidden[0])
    return [folder / name for name in names if not is_hidden(name)]


def match_files(ids: pd.Series, files: Mapping[str, Path], search: Search, *, skip_lost: bool) -> list[Path | None]:
    """The file of each id; ids and files must be the same set, but for lost files with `skip_lost`, which are None.

    Raises:
        ValueError: for ids without a file, and files without an id, with what to do.
    """
    if wrong := mismatches(ids, files, search, skip_lost=skip_lost):
        raise ValueError(wrong[0])
    return [files.get(image_id) for image_id in ids]


def mismatches(ids: pd.Series, files: Mapping[str, Path], search: Search, *, skip_lost: bool) -> list[str]:
    """What `match_files` refuses, a line each: ids without a file, and files without an id; or why they do not fit.

    Test images without an id are none of it: they are not predicted, and counted where that is said.
    """
    wanted = set(ids)
    lost, unexpected = sorted(wanted - set(files)), sorted(set(files) - wanted)
    nothing = len(lost) == len(wanted) > 0
    lines = []
    if lost and (nothing or not skip_lost):
        came = f"no image for {len(lost)} of {len(wanted)} {search.part} ids in {search.ids_from.name}"
        line = f"{search.folder}: {came}, such as '{shortened(lost[0])}'; {_there(unexpected, files, search)}"
        if reason := _why_not(lost, wanted, files, search):
            return [f"{line}: {reason}"]
        advice = "are these the files of this table?" if nothing else "get the file, or leave it out with --skip-bad"
        lines.append(f"{line}: {advice}")
    if unexpected and search.part == "training":
        name = shortened(files[unexpected[0]].relative_to(search.folder))
        what = "mask" if search.ids_from.is_dir() else "row"
        lines.append(
            f"{search.folder}: {len(unexpected)} of {len(files)} {search.part} images have no {what} in "
            f"{search.ids_from.name}, such as '{name}': on the card, "
            f'images_without_rows = "empty" if their masks are empty, '
            f'"ignore" if they are no training images'
        )
    return lines


def _there(unexpected: list[str], files: Mapping[str, Path], search: Search) -> str:
    """What the folder holds."""
    if files:
        example = files[unexpected[0]] if unexpected else next(iter(files.values()))
        return f"there are {len(files)} with {search.rule}, such as '{shortened(example.name)}'"
    names = _names_in(search.folder)
    others = f"{len(names)} others, such as '{shortened(names[0])}'" if names else "nothing"
    return f"no name has the {search.rule}, the folder holds {others}"


def _names_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not is_hidden(name))  # noqa: PTH208 - names alone


def nothing_found(search: Search) -> str:
    """A line for a folder in which no file has the suffix or fits the pattern: what is there, and what to do."""
    return f"{search.folder}: {_there([], {}, search)}: {_deeper(search) or 'mend the names or the folder on the card'}"


def _deeper(search: Search) -> str | None:
    """Where files with the suffix lie, if not in the folder itself."""
    if search.pattern:
        return None
    found = Counter(path.parent for path in _files_below(search.folder) if path.name.endswith(search.suffix))
    if not found:
        return None
    folder, count = found.most_common(1)[0]
    deeper = folder.relative_to(search.folder.parent).as_posix()
    return f"{count} lie deeper, in {shortened(deeper)}/: set this folder on the card, or files.pattern"


def _why_not(lost: list[str], wanted: set[str], files: Mapping[str, Path], search: Search) -> str | None:
    """Why ids and files do not fit, if it is one of the usual reasons, with what to do."""
    if not search.pattern and (reason := _of_suffix(lost, wanted, files, search)):
        return reason
    for how, change in DIFFERENCES.items():
        changed = {change(key): key for key in files}
        if pair := next(((key, changed[change(key)]) for key in lost if change(key) in changed), None):
            one, other = (shortened(each, 40) for each in pair)
            return f"'{one}' and '{other}' differ in {how}: write them alike"
    return None


def _of_suffix(lost: list[str], wanted: set[str], files: Mapping[str, Path], search: Search) -> str | None:
    suffix = search.suffix
    with_it = [key for key in wanted if suffix and key.endswith(suffix)]
    if any(key.removesuffix(suffix) in files for key in with_it):
        if len(with_it) == len(wanted):
            return f"the ids end in '{suffix}' already: set suffix = \"\" on the card"
        return f"{len(with_it)} ids end in '{suffix}' and the others do not: write them alike"
    fitting = _suffix_that_fits(lost[:TRIED], _names_in(search.folder))
    if fitting is None:
        return None if files else _deeper(search)
    if len(lost) == len(wanted):
        return f'the names fit with suffix = "{fitting}" on the card'
    both = "|".join(sorted(re.escape(each) for each in {suffix, fitting}))
    return f"these have the suffix '{fitting}': set pattern = '([^/]+)(?:{both})' on the card"


def _suffix_that_fits(keys: list[str], names: list[str]) -> str | None:
    """What stands behind ids in the sorted names, if it is the same for most of them."""
    found = Counter(
        end
        for key in keys
        for name in names[bisect_left(names, key) : bisect_right(names, key + "\U0010ffff")]
        if not (end := name[len(key) :])[:1].isalnum()
    )
    (suffix, often), *_ = found.most_common(1) or [("", 0)]
    return suffix if often > len(keys) / 2 else None
