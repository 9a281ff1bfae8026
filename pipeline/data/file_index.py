"""Which file belongs to which image id, and what to do if files and ids do not match."""

import logging
import os
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import pandas as pd

from pipeline.data.medical import is_nifti_name, slices_of
from pipeline.quoting import shortened

log = logging.getLogger(__name__)
log_once = lru_cache(maxsize=None)(log.info)  # several stages of one command read the same files

BLANKS = " \t\r\n\v\f\xa0\u200b\ufeff"  # stripped from names: editors and spreadsheets leave them
# Files of operating systems, in lower case; so is every name that begins with a dot, such as macOS's ._im1.png.
SYSTEM = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir", "$recycle.bin"}
TRIED = 200  # ids that are compared with file names to find out why they do not match

# Common differences between the ids of a table and file names: what they are, and what removes them.
DIFFERENCES: dict[str, Callable[[str], str]] = {
    "zeros at the start, which spreadsheets drop": lambda key: key.lstrip("0"),
    "upper and lower case": str.casefold,
    "folders before the name": lambda key: key.replace("\\", "/").rpartition("/")[2],
    "'.0' at the end, which a table of numbers adds": lambda key: key.removesuffix(".0"),
}


def normalize_id(text: str) -> str:
    """A name in the form in which names are compared: Unicode NFC (macOS writes NFD), without blanks around it.

    >>> normalize_id(" cafe\\u0301 ") == "caf\\u00e9"
    True
    """
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).strip(BLANKS)


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the operating system, by its name."""
    return name.startswith(".") or name.lower() in SYSTEM


@dataclass(frozen=True)
class FileSearch:
    """Which image files are searched for, and which ids they must match.

    Args:
        part: of the competition.
        ids_from: the table, or the folder of masks, with the ids.
        folder: of the images.
        suffix, pattern: as in `find_files`.
        channels: the path of each channel's file below the folder, with {id}; empty if an image is one file.
    """

    part: Literal["training", "test"]
    ids_from: Path
    folder: Path
    suffix: str
    pattern: str | None = None
    channels: tuple[str, ...] = ()

    def find(self, *, hidden: bool = False) -> dict[str, Path]:
        """The files by id; of several channels the first one's.

        Args:
            hidden: the folder may be missing, as in a code competition that hides its test images.

        Raises:
            FileNotFoundError, ValueError: as `find_files`.
        """
        return {image_id: paths[0] for image_id, paths in self.find_sources(hidden=hidden).items()}

    def find_sources(self, *, hidden: bool = False) -> dict[str, tuple[Path, ...]]:
        """The file of each channel by id; the only file if an image is one.

        Args:
            hidden: as for `find`.

        Raises:
            FileNotFoundError, ValueError: as `find_files`.
        """
        if hidden and not self.folder.is_dir():
            return {}
        if self.channels:
            return find_channels(self.folder, self.channels)
        return {image_id: (path,) for image_id, path in find_files(self.folder, self.suffix, self.pattern).items()}

    @property
    def rule(self) -> str:
        """The rule that file names must match, for messages."""
        if self.channels:
            return f"name '{shortened(self.channels[0])}'"
        return f"pattern '{shortened(self.pattern)}'" if self.pattern else f"suffix '{self.suffix}'"


def find_files(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, Path]:
    """Files by id: those in the folder by their suffix, or those in all folders below it by a pattern.

    A NIfTI volume (`.nii`, `.nii.gz`) is one image per slice: its id is that of the file, "_", and the number of the
    slice, from 000. Files of the operating system (`._x`, `Thumbs.db`, …) are left out, links to folders are followed,
    and a file whose extension differs from the suffix in upper and lower case counts if no other has its id.

    Args:
        suffix: of the file's name; what precedes it is the id.
        pattern: a regular expression for the whole path below the folder; its groups, joined by "_", are the id.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two files with the same id.
    """
    return _by_id(_with_ids(folder, suffix, pattern))


def _by_id(found: Iterable[tuple[str, Path, bool]]) -> dict[str, Path]:
    """One file for each id, from what `_with_ids` yields."""
    files: dict[str, Path] = {}
    exact: set[str] = set()
    for image_id, path, is_exact in found:
        if image_id in files and is_exact == (image_id in exact):
            raise ValueError(f"{path} and {files[image_id]} are both image '{image_id}': correct the card's pattern")
        if image_id not in exact:
            files[image_id] = path
        exact |= {image_id} if is_exact else set()
    return files


def find_channels(folder: Path, channels: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    """The file of each channel, by the ids for which at least one of them exists.

    A missing file is in the result by the path that it should have: reading it is an error, or leaves the image out.

    Args:
        channels: as for `path_regex`, one for each channel.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two files with the same id and channel.
    """
    return {
        image_id: tuple(files.get(n, folder / channel.replace("{id}", image_id)) for n, channel in enumerate(channels))
        for image_id, files in find_each(folder, channels).items()
    }


def find_each(folder: Path, paths: Sequence[str]) -> dict[str, dict[int, Path]]:
    """The files of several paths with {id}, by id, sorted, and by the number of the path; those that exist.

    Args:
        paths: as for `path_regex`.

    Raises:
        FileNotFoundError: without the folder.
        ValueError: for two files with the same id and path.
    """
    found: dict[str, dict[int, Path]] = {}
    names = list(_names_below(folder))
    for number, path in enumerate(paths):
        for image_id, file in _by_id(_matches(re.compile(path_regex(path)), names)).items():
            found.setdefault(image_id, {})[number] = file
    return dict(sorted(found.items()))


def path_regex(path: str) -> str:
    r"""The regular expression of the files of a path with {id}, with a group for the id.

    Args:
        path: of a channel, or of a class's masks; {id} stands for a part without "/", the same wherever it is.

    >>> path_regex("{id}/{id}_t1.nii")
    '(?P<id>[^/]+)/(?P=id)_t1\\.nii'
    """
    first, *others = map(re.escape, path.split("{id}"))
    return f"{first}(?P<id>[^/]+)" + "(?P=id)".join(others)


def find_parts(folder: Path, suffix: str, pattern: str | None = None) -> dict[str, tuple[Path, ...]]:
    """As `find_files`, but with all files of an id, sorted: a mask may have one file per object.

    Raises:
        FileNotFoundError: without the folder.
    """
    files: dict[str, list[Path]] = {}
    for image_id, path, _ in _with_ids(folder, suffix, pattern):
        files.setdefault(image_id, []).append(path)
    return {image_id: tuple(sorted(paths)) for image_id, paths in files.items()}


def _with_ids(folder: Path, suffix: str, pattern: str | None) -> Iterator[tuple[str, Path, bool]]:
    """Each file with its id, and whether its extension is spelled as on the card, upper and lower case included."""
    if pattern is not None:
        return _matches(re.compile(pattern), _names_below(folder))
    _refuse_missing(folder)
    whole = re.compile(f"(.*){re.escape(suffix)}", re.DOTALL)
    return _matches(whole, ((path, spellings(path.name)) for path in _files_in(folder)))


def _names_below(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Each file below a folder, and the spellings of its path from there."""
    _refuse_missing(folder)
    return ((path, spellings(path.relative_to(folder).as_posix())) for path in _files_below(folder))


def _refuse_missing(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder: unpack the images there, or correct its name on the card")


def _matches(whole: re.Pattern, files: Iterable[tuple[Path, list[str]]]) -> Iterator[tuple[str, Path, bool]]:
    """As `_with_ids`, of files with the spellings of their names."""
    for path, spellings in files:
        for spelling in spellings:
            if (image_id := _id_of(whole, spelling)) is not None:
                yield from ((each, part, spelling == spellings[0]) for each, part in _images_in(image_id, path))
                break


def _images_in(image_id: str, path: Path) -> Iterator[tuple[str, Path]]:
    """The image of a file; of a NIfTI volume its slices, each an image `<id>_<number>`."""
    if is_nifti_name(path):
        yield from ((f"{image_id}_{number}", part) for number, part in slices_of(path).items())
    else:
        yield image_id, path


def _id_of(whole: re.Pattern, name: str) -> str | None:
    """The id in a name: the groups of its match, joined; None for a name that does not match."""
    found = whole.fullmatch(name)
    if not found and not name.isascii():
        found = whole.fullmatch(unicodedata.normalize("NFC", name))
    return normalize_id("_".join(part for part in found.groups() if part)) if found else None


def spellings(name: str) -> list[str]:
    """The spellings by which a file's name is matched: as it is, with its extension in lower case, and in upper case;
    each once.
    """
    stem, dot, extension = name.rpartition(".")
    others = [stem + dot + extension.lower(), stem + dot + extension.upper()] if dot else []
    return list(dict.fromkeys([name, *others]))


def _files_in(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if is_hidden(entry.name) or not entry.is_dir())
    return _visible(folder, names)


def _files_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted; links to folders are followed, except to a folder that contains the link."""
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        folders[:] = [name for name in folders if not is_hidden(name) and not is_loop(here / name)]
        found += _visible(here, names)
    return sorted(found)


def is_loop(folder: Path) -> bool:
    """Whether a folder is a link to a folder that contains it; this is logged."""
    if os.name != "nt" and not folder.is_symlink():  # Windows has junctions too, which are no symbolic links
        return False
    target = next((each for each in folder.parents if folder.samefile(each)), None)
    if target is not None:
        log_once("%s: a link back to %s: not followed", folder, target)
    return target is not None


def _visible(folder: Path, names: Collection[str]) -> list[Path]:
    hidden = sorted(filter(is_hidden, names))
    if hidden:
        log_once("%s: %d files of the operating system are left out, such as '%s'", folder, len(hidden), hidden[0])
    return [folder / name for name in names if not is_hidden(name)]


def match_files(
    ids: pd.Series, files: Mapping[str, Path], search: FileSearch, *, skip_missing: bool
) -> list[Path | None]:
    """The file of each id. Ids and files must be the same set.

    Args:
        skip_missing: ids without a file are allowed; their file is None.

    Raises:
        ValueError: for ids without a file, and files without an id, with what to do.
    """
    if errors := mismatches(ids, files, search, skip_missing=skip_missing):
        raise ValueError(errors[0])
    return [files.get(image_id) for image_id in ids]


def mismatches(ids: pd.Series, files: Mapping[str, Path], search: FileSearch, *, skip_missing: bool) -> list[str]:
    """What `match_files` refuses, one line each: ids without a file, and files without an id; or why they differ.

    Test images without an id are no mismatch: they are not predicted, and are counted where that is logged.

    Args:
        skip_missing: as for `match_files`.
    """
    wanted = set(ids)
    missing, unexpected = sorted(wanted - set(files)), sorted(set(files) - wanted)
    no_file = len(missing) == len(wanted) > 0
    lines = []
    if missing and (no_file or not skip_missing):
        what = f"no image for {len(missing)} of {len(wanted)} {search.part} ids in {search.ids_from.name}"
        found = _describe_files(unexpected, files, search)
        line = f"{search.folder}: {what}, such as '{shortened(missing[0])}'; {found}"
        if reason := _find_reason(missing, wanted, files, search):
            return [f"{line}: {reason}"]
        advice = "get the file, or leave it out with SKIP_BAD=1 (make) or --skip-bad"
        advice = "are these the files of this table?" if no_file else advice
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


def _describe_files(unexpected: list[str], files: Mapping[str, Path], search: FileSearch) -> str:
    """What the folder contains, for messages."""
    if files:
        example = files[unexpected[0]] if unexpected else next(iter(files.values()))
        return f"there are {len(files)} with {search.rule}, such as '{shortened(example.name)}'"
    names = _names_in(search.folder)
    others = f"{len(names)} others, such as '{shortened(names[0])}'" if names else "nothing"
    return f"no name has the {search.rule}, the folder contains {others}"


def _names_in(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if not is_hidden(name))  # noqa: PTH208 - names alone


def describe_no_files(search: FileSearch) -> str:
    """One line for a folder in which no file has the suffix or matches the pattern: what is there, and what to do."""
    advice = _describe_subfolder(search) or "correct the names or the folder on the card"
    return f"{search.folder}: {_describe_files([], {}, search)}: {advice}"


def _describe_subfolder(search: FileSearch) -> str | None:
    """Which subfolder has files with the suffix, and what to do; None without one."""
    if search.pattern or search.channels:
        return None
    found = Counter(path.parent for path in _files_below(search.folder) if path.name.endswith(search.suffix))
    if not found:
        return None
    folder, count = found.most_common(1)[0]
    subfolder = folder.relative_to(search.folder.parent).as_posix()
    return f"{count} are in the subfolder {shortened(subfolder)}/: set this folder on the card, or files.pattern"


def _find_reason(missing: list[str], wanted: set[str], files: Mapping[str, Path], search: FileSearch) -> str | None:
    """Why ids and files do not match, and what to do; None if it is none of the usual reasons."""
    if not (search.pattern or search.channels) and (reason := _find_suffix_reason(missing, wanted, files, search)):
        return reason
    for difference, remove in DIFFERENCES.items():
        changed = {remove(key): key for key in files}
        if pair := next(((key, changed[remove(key)]) for key in missing if remove(key) in changed), None):
            one, other = (shortened(each, 40) for each in pair)
            return f"'{one}' and '{other}' differ in {difference}: write both the same"
    return None


def _find_suffix_reason(
    missing: list[str], wanted: set[str], files: Mapping[str, Path], search: FileSearch
) -> str | None:
    suffix = search.suffix
    with_suffix = [key for key in wanted if suffix and key.endswith(suffix)]
    if any(key.removesuffix(suffix) in files for key in with_suffix):
        if len(with_suffix) == len(wanted):
            return f"the ids end in '{suffix}' already: set suffix = \"\" on the card"
        return f"{len(with_suffix)} ids end in '{suffix}' and the others do not: write all the same"
    other = _suffix_that_matches(missing[:TRIED], _names_in(search.folder))
    if other is None:
        return None if files else _describe_subfolder(search)
    if len(missing) == len(wanted):
        return f'the names match with suffix = "{other}" on the card'
    both = "|".join(sorted(re.escape(each) for each in {suffix, other}))
    return f"these have the suffix '{other}': set pattern = '([^/]+)(?:{both})' on the card"


def _suffix_that_matches(keys: list[str], names: list[str]) -> str | None:
    """The text after an id in the sorted file names, if it is the same for more than half of the ids."""
    found = Counter(
        end
        for key in keys
        for name in names[bisect_left(names, key) : bisect_right(names, key + "\U0010ffff")]
        if not (end := name[len(key) :])[:1].isalnum()
    )
    (suffix, count), *_ = found.most_common(1) or [("", 0)]
    return suffix if count > len(keys) / 2 else None
