"""How ids map to files: a folder, and a suffix or a regular expression for the paths below it."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from pipeline.card_draft.templates import (
    ANYTHING,
    MIN_SHARE,
    NUMBER,
    PIECES,
    SIDE,
    Family,
    Search,
    find_families,
)
from pipeline.data.file_index import normalize_id, path_regex, spellings

MARKS = {NUMBER: r"\d+", ANYTHING: "[^/]*", SIDE: "(?i:left|right)"}  # as regular expressions
MIN_FITTING = 0.5  # of the ids of the most frequent template: masks may be of more ids than images, or of fewer
MASK_WORD = re.compile(
    r"mask|(?<!un)label(?!l?ed)|annot|manual|truth|segment|target"
    r"|(?<![a-z])(gt(fine|coarse)?|seg|ann|lbl|msk)(?![a-z])",
    re.IGNORECASE,
)
VALIDATION = re.compile(r"(?i:(?<![a-z])val(id|idation)?(?![a-z]))|(?<=[a-z])(Va|Val)(?![A-Za-z])")
TEST = re.compile(r"(?i:test|(?<![a-z])(te|eval(uation)?)(?![a-z]))|(?<![A-Z])Ts(?![A-Za-z])")
HELD_OUT = re.compile(f"{TEST.pattern}|{VALIDATION.pattern}")
COLORS = ("red", "green", "blue", "nir", "rededge", "swir")
# In a path: further data beside the pictures themselves, such as heights.
BESIDE = re.compile(
    r"(?<![a-z])(n?dsm|dem|dtm|elevation|height|slope|hydro|nir|ir|depth|distance|gaze|heat[ _-]?maps?"
    r"|overlays?|previews?|thumb\w*|vis)(?![a-z])",
    re.IGNORECASE,
)


def is_held_out(path: str, word: re.Pattern = HELD_OUT) -> bool:
    """Whether a folder or name of a path is of a validation or test part: val, but not train_val.

    Args:
        word: TEST or VALIDATION, for one of these parts alone.
    """
    return any(word.search(part) and "train" not in part.lower() for part in path.split("/"))


@dataclass(frozen=True)
class Rule:
    """Which files are images, or masks, and their ids.

    Args:
        folder: that paths start from.
        suffix: image file = id + suffix, if there is no pattern.
        pattern: for the whole path below the folder; its groups, joined by "_", are the id.
    """

    folder: str
    suffix: str = ""
    pattern: str | None = None

    @cached_property
    def regex(self) -> re.Pattern:
        """For the path below the folder."""
        return re.compile(f"([^/]+){re.escape(self.suffix)}" if self.pattern is None else self.pattern)

    def id_of(self, path: str) -> str | None:
        """The id of a file by its path below the folder; None if it is no image of this rule."""
        found = next(filter(None, map(self.regex.fullmatch, spellings(path))), None)
        return normalize_id("_".join(part for part in found.groups() if part)) if found else None

    def files(self, paths: Iterable[str]) -> dict[str, list[str]]:
        """The paths of each id, of all paths of the data folder."""
        start, found = f"{self.folder}/" if self.folder else "", dict[str, list[str]]()
        for path in paths:
            if path.startswith(start) and (image_id := self.id_of(path[len(start) :])) is not None:
                found.setdefault(image_id, []).append(path)
        return found

    def at(self, folder: str) -> "Rule":
        """The same rule in another folder."""
        return Rule(folder, self.suffix, self.pattern)


def rules_of(template: str, pieces: Mapping[str, Sequence[str]]) -> Iterator[Rule]:
    """The rules that a template may stand for, the simplest first.

    Args:
        pieces: by mark, what a piece of an id looks like.
    """
    parts = template.split("/")
    first = next(number for number, part in enumerate(parts) if set(part) & {*PIECES, *MARKS})
    folder, rest = "/".join(parts[:first]), "/".join(parts[first:])
    are_paths = any("/" in text for texts in pieces.values() for text in texts)
    if rest[0] == PIECES[0] and not set(rest[1:]) & {*PIECES, *MARKS, "/"} and not are_paths:
        yield Rule(folder, rest[1:])
        return
    forms = (
        dict.fromkeys(PIECES, ".+" if are_paths else "[^/]+"),
        {mark: generalised(texts) for mark, texts in pieces.items()},
    )
    for text in dict.fromkeys([re.sub(r"\d+", NUMBER, rest), rest]):  # hidden images may have other numbers there
        for form in forms:
            yield Rule(folder, "", _pattern_of(text, form))


def _pattern_of(rest: str, pieces: Mapping[str, str]) -> str:
    """The regular expression of a template, with a group at the first place of each piece; it is the same elsewhere."""
    text, seen = "", list[str]()
    for letter in rest:
        if letter in seen:
            text += rf"\{seen.index(letter) + 1}"
        elif letter in PIECES:
            text += f"({pieces[letter]})"
            seen.append(letter)
        else:
            text += MARKS.get(letter) or re.escape(letter).replace(r"\-", "-")
    return re.sub(r"(\\[1-3])(?=\d)", r"(?:\1)", text)


def generalised(texts: Sequence[str]) -> str:
    """A regular expression for texts: digits and letters where they differ, else what they share.

    >>> generalised(["case1_day20", "case22_day0"])
    'case\\\\d+_day\\\\d+'
    """
    tokens = [re.findall(r"\d+|[A-Za-z]+|[^A-Za-z0-9]", text) for text in texts]
    if len({len(each) for each in tokens}) != 1:
        return "[^/]+"
    return "".join(map(_token_pattern, zip(*tokens, strict=True)))


def _token_pattern(tokens: Sequence[str]) -> str:
    for form in (r"\d+", r"[A-Za-z]+"):
        if all(re.fullmatch(form, token) for token in tokens):
            is_one = len(set(tokens)) == 1 and form != r"\d+"
            return re.escape(tokens[0]) if is_one else form
    return re.escape(tokens[0]) if len(set(tokens)) == 1 else "[^/]+"


class Images(NamedTuple):
    """The image files of ids.

    Args:
        rule: of the files, or of the first channel's.
        channels: the path of each channel below the folder with {id}; or its name, with `channel_path`.
        slice_pattern: of file names, if an image is one of several slices in its folder.
        others: templates that fit too, for people.
    """

    rule: Rule
    channels: tuple[str, ...] = ()
    channel_path: str | None = None
    slice_pattern: str | None = None
    others: tuple[str, ...] = ()


def find_images(ids: Sequence[str], paths: Sequence[str], near: Collection[str] = ()) -> Images | None:
    """The images of ids; None if no path contains an id.

    Args:
        ids: of images, without repetition.
        paths: of all images and masks.
        near: folders above the masks, of which the images' path has as many as possible.
    """
    search = find_families(ids, paths)
    if not search.families:
        return None
    is_split = search.families[0].ids < MIN_SHARE * len(search.pieces[PIECES[0]])
    if is_split and (rule := _of_several_suffixes(search, ids, paths)):
        return Images(rule)
    fitting = [each for each in search.families if each.ids >= MIN_FITTING * search.families[0].ids]
    images = _without_masks(fitting)
    images = [each for each in images if each.ids >= MIN_SHARE * max(every.ids for every in images)]
    together, others = _largest_folder(images, near)
    left_out = tuple(each.shown for each in [*others, *(each for each in fitting if each not in images)])
    if len(together) > 1:
        found = _several_files(together, search, ids, paths)
        return found._replace(others=(*found.others, *left_out))
    return Images(choose_rule(together[0], search, ids, paths), others=left_out)


def choose_rule(family: Family, search: Search, ids: Sequence[str], paths: Sequence[str]) -> Rule:
    """The rule of a template that gives one file for as many ids as possible."""
    rules, wanted = list(rules_of(family.template, search.pieces)), set(ids)

    def fit(rule: Rule) -> tuple[int, int]:
        files = rule.files(paths)
        repeated = sum(len(each) > 1 for each in files.values())
        return len(wanted & files.keys()) - repeated, -len(files.keys() - wanted)

    return max(rules, key=fit) if len(rules) > 1 else rules[0]


def _without_masks(families: Sequence[Family]) -> list[Family]:
    """The families without those that are masks by a word in their paths that others do not have."""
    parts = [set(family.template.split("/")) for family in families]
    common = set.intersection(*parts)
    images = [
        family for family, own in zip(families, parts, strict=True) if not any(map(MASK_WORD.search, own - common))
    ]
    return images or list(families)


def _folder(family: Family) -> str:
    return family.template.rpartition("/")[0]


def _largest_folder(families: Sequence[Family], near: Collection[str]) -> tuple[list[Family], list[Family]]:
    """The families that are the files of an image, and all others: those of one folder, or of one folder each.

    Args:
        near: as for `find_images`.
    """
    folders: dict[str, list[Family]] = {}
    for family in families:
        folders.setdefault(_folder(family), []).append(family)
    if len(folders) > 1 and all(len(each) == 1 for each in folders.values()) and _are_bands(list(folders)):
        return sorted(families), []

    def likelihood(name: str) -> tuple:
        shared = len(set(name.split("/")) & set(near))
        is_picture = not BESIDE.search(name)
        return shared, "train" in name.lower(), "image" in name.lower(), is_picture, len(folders[name]), -len(name)

    chosen = max(folders, key=likelihood)
    return sorted(folders[chosen]), [family for family in families if _folder(family) != chosen]


def _are_bands(folders: Sequence[str]) -> bool:
    """Whether folders differ in one part only, which is a band's name: a colour, or a letter and a number."""
    parts = [folder.split("/") for folder in folders]
    if len({len(each) for each in parts}) > 1:
        return False
    different = [set(each) for each in zip(*parts, strict=True) if len(set(each)) > 1]
    return len(different) == 1 and all(_is_band(name) for name in different[0])


def _is_band(name: str) -> bool:
    return bool(re.fullmatch(r"(?i)(b|band|c|ch|channel)?_?\d{1,2}a?", name)) or name.lower() in COLORS


def _several_files(families: Sequence[Family], search: Search, ids: Sequence[str], paths: Sequence[str]) -> Images:
    """An image of several files: slices whose names are numbers, else channels."""
    names = [family.template.rpartition("/")[2].rpartition(".")[0] for family in families]
    if plain := _plain_beside_others(families):
        others = tuple(family.shown for family in families if family != plain)
        return Images(choose_rule(plain, search, ids, paths), others=others)
    if len(families) > 2 and all(name.isdigit() for name in names):
        middle = families[len(families) // 2]
        suffix = re.escape("." + middle.template.rpartition(".")[2])
        return Images(choose_rule(middle, search, ids, paths), slice_pattern=rf"(\d+){suffix}")
    if len(search.pieces) == 1 and not any(set(family.template) & set(MARKS) for family in families):
        return _channels(families, search, ids, paths)
    others = tuple(family.shown for family in families[1:])
    return Images(choose_rule(families[0], search, ids, paths), others=others)


def _plain_beside_others(families: Sequence[Family]) -> Family | None:
    """The family whose files are named by the id alone, if those of all others have another extension: id.jpg beside
    id_superpixels.png.
    """
    plain = [each for each in families if each.template.rpartition("/")[2].partition(".")[0] in PIECES]
    extensions = [each.template.rpartition(".")[2].lower() for each in families]
    return plain[0] if len(plain) == 1 and extensions.count(plain[0].template.rpartition(".")[2].lower()) == 1 else None


def _channels(families: Sequence[Family], search: Search, ids: Sequence[str], paths: Sequence[str]) -> Images:
    folder = next(iter(rules_of(families[0].template, search.pieces))).folder
    if any(not family.template.startswith(f"{folder}/") for family in families):
        folder = common_folder([family.template for family in families])
    rests = [family.template.removeprefix(f"{folder}/").replace(PIECES[0], "{id}") for family in families]
    before, after = _common_ends(rests)
    names = [rest[len(before) : len(rest) - len(after)] for rest in rests]
    names.sort(key=lambda name: (COLORS.index(name.lower()) if name.lower() in COLORS else len(COLORS), name))
    path = before + "{channel}" + after
    rule = Rule(folder, "", path_regex(path.replace("{channel}", names[0])))
    return Images(rule, tuple(names), path) if "{id}" in path else Images(rule, tuple(rests))


def common_folder(paths: Sequence[str]) -> str:
    """The folder that all paths share; "" without one."""
    parts = [path.split("/")[:-1] for path in paths]
    shortest = min(map(len, parts))
    count = next((n for n, each in enumerate(zip(*parts, strict=False)) if len(set(each)) > 1), shortest)
    return "/".join(parts[0][:count])


def _common_ends(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin and end with, up to a whole word or number."""
    shortest = min(map(len, texts))
    before = next((n for n in range(shortest) if len({text[n] for text in texts}) > 1), shortest)
    after = next((n for n in range(shortest - before) if len({text[-1 - n] for text in texts}) > 1), 0)
    while before and texts[0][before - 1].isalnum():
        before -= 1
    while after and texts[0][len(texts[0]) - after].isalnum():
        after -= 1
    return texts[0][:before], texts[0][len(texts[0]) - after :]


def _of_several_suffixes(search: Search, ids: Sequence[str], paths: Sequence[str]) -> Rule | None:
    """A rule for files of one folder whose suffixes differ, as x.jpg and y.png; None if this is not the case."""
    folder = _folder(search.families[0])
    families = [each for each in _without_masks(search.families) if _folder(each) == folder]
    rules = [next(iter(rules_of(each.template, search.pieces))) for each in families]
    if len(rules) < 2 or any(rule.pattern for rule in rules) or not all(rule.suffix.startswith(".") for rule in rules):
        return None
    rule = Rule(folder, "", f"([^/]+)(?:{'|'.join(sorted(re.escape(each.suffix) for each in rules))})")
    files = rule.files(paths)
    return rule if set(ids) <= files.keys() and all(len(each) == 1 for each in files.values()) else None


def folders_of(rule: Rule, paths: Sequence[str], ids: Iterable[str] | None = None) -> Counter[str]:
    """How many files below each folder a rule matches; the folders are those from which the whole path matches.

    Args:
        ids: count only files of these ids.
    """
    wanted, found = None if ids is None else set(ids), Counter[str]()
    for path in paths:
        parts = path.split("/")
        for depth in range(len(parts)):
            image_id = rule.id_of("/".join(parts[depth:]))
            if image_id is not None and (wanted is None or image_id in wanted):
                found["/".join(parts[:depth])] += 1
    return found
