"""Templates of the paths of images: where their ids are.

The paths that contain an id are compared with each other. What all ids have in common is the template of the paths:

    ids 07a, 1c2     train/07a/images/07a.png, train/1c2/images/1c2.png     template  train/{id}/images/{id}.png

An id may be spread over its path, as `case1_day2` and `slice_3` are in `case1/case1_day2/slice_3.png`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

from pipeline.card_draft.listing import spread

NUM_IDS = 40  # that are searched in all paths
NUM_SPLIT = 12  # ids that are searched in pieces, which takes longer
NUM_TRIED = 4  # ids, to see whether they are in pieces at all
MAX_PIECES = 3  # of an id
# Regular expressions of what is before an id, or a piece of it.
AFTER_GAP, AFTER_LETTER, AFTER_BOTH = "(?<![A-Za-z0-9])", "(?<![^A-Za-z])", "(?<![0-9])"
MIN_SHARE = 0.95  # of the ids must have a file of a template
PIECES = "\1\2\3"  # in a template: a piece of the id
NUMBER, ANYTHING = "\5", "\6"  # in a template: digits, or any text, that differ from id to id
SIDE = "\7"  # in a template: the word left, or right


class Family(NamedTuple):
    """Files of the same template, one for each id."""

    template: str
    ids: int  # of those searched, with such a file

    @property
    def shown(self) -> str:
        """The template for people, as in train/{id}/images/{id}.png."""
        text = self.template
        for piece in PIECES:
            text = text.replace(piece, "{id}")
        return text.replace(NUMBER, "#").replace(ANYTHING, "*").replace(SIDE, "?")


class Search(NamedTuple):
    """Where ids are in paths."""

    families: list[Family]  # those of most ids first
    pieces: dict[str, list[str]]  # by mark, the texts of each piece of the ids
    share: float  # of the searched ids that are in some path, 0 to 1


def find_families(ids: Sequence[str], paths: Sequence[str]) -> Search:
    """The templates of the paths that contain ids.

    Args:
        ids: of images; some of them are searched.
        paths: of all images.
    """
    split: list[tuple[str, ...]] = [(image_id,) for image_id in spread(ids, NUM_IDS)]
    found = [(pieces, paths_) for pieces in split if (paths_ := _marked(pieces, paths))]
    if not found:  # numbers right after letters, as 0001 in img0001
        numbers = [pieces for pieces in split if pieces[0].isdigit()]
        found = [(pieces, paths_) for pieces in numbers if (paths_ := _marked(pieces, paths, AFTER_LETTER))]
    searched = len(split)
    if not found:
        some = spread(ids, NUM_SPLIT)
        found, searched = list(filter(None, (_marked_pieces(each, paths) for each in some))), len(some)
    hits, best = [each for _, each in found], list[Family]()
    for blur in (_as_it_is, _without_numbers, _without_names):
        counts = Counter(template for templates in blur(hits) for template in templates)
        families = [Family(*item) for item in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
        if families and (not best or families[0].ids > best[0].ids):
            best = families
        if best and best[0].ids >= MIN_SHARE * len(hits):
            break
    count = min((len(pieces) for pieces, _ in found), default=0)
    return Search(
        best,
        {mark: [pieces[n] for pieces, _ in found] for n, mark in enumerate(PIECES[:count])},
        len(found) / max(1, searched),
    )


def _marked(pieces: Sequence[str], paths: Iterable[str], after: str = AFTER_GAP) -> set[str]:
    """The paths that contain all pieces in this order, each as a whole word, with marks in their places.

    Args:
        after: regular expression of what is before a word.
    """
    found, words = set(), [re.compile(rf"{after}{re.escape(piece)}(?![A-Za-z0-9])") for piece in pieces]
    candidates = list(paths)
    for piece in pieces:
        candidates = [path for path in candidates if piece in path]
    for path in candidates:
        place, marked = 0, path
        for mark, word in zip(PIECES, words, strict=False):
            match = word.search(marked, place)
            if not match:
                break
            place = match.start() + 1
            marked = marked[: match.start()] + word.sub(mark, marked[match.start() :])
        else:
            found.add(marked)
    return found


def _marked_pieces(image_id: str, paths: Sequence[str]) -> tuple[tuple[str, ...], set[str]] | None:
    """An id's pieces, and the paths that contain them; None if there are no such paths."""
    words = image_id.split("_")
    for after in (AFTER_GAP, AFTER_BOTH) if words[-1].isdigit() else (AFTER_GAP,):
        for count in range(2, min(MAX_PIECES, len(words)) + 1):
            for ends in combinations(range(1, len(words)), count - 1):
                places = [0, *ends, len(words)]
                pieces = tuple("_".join(words[start:end]) for start, end in pairwise(places))
                if found := _marked(pieces, paths, after):
                    return pieces, found
    return None


def are_in_pieces(ids: Sequence[str], paths: Sequence[str]) -> bool:
    """Whether ids are spread over the paths of images, as case1_slice_2 in case1/slice_2.png; tried on some."""
    some = spread(ids, NUM_TRIED)
    found = sum(bool("_" in image_id and _marked_pieces(image_id, paths)) for image_id in some)
    return found > len(some) / 2


def _as_it_is(hits: Sequence[set[str]]) -> Sequence[set[str]]:
    return hits


def _without_numbers(hits: Sequence[set[str]]) -> list[set[str]]:
    """Templates without the digits of folders and names that are not common to all ids."""
    common = _common_parts(hits)
    return [
        {
            "/".join(part if part in common else re.sub(r"\d+", NUMBER, part) for part in path.split("/"))
            for path in each
        }
        for each in hits
    ]


def _without_names(hits: Sequence[set[str]]) -> list[set[str]]:
    """Templates without the folders and the texts beside ids that are not common to all ids."""
    common = _common_parts(hits)

    def blur(part: str) -> str:
        if part in common:
            return part
        stem, dot, extension = part.rpartition(".")
        marks = re.findall(f"[{PIECES}]", part)
        if not marks:
            return ANYTHING
        return f"{''.join(marks)}{ANYTHING}{dot}{extension}" if stem and extension not in PIECES else part

    return [{"/".join(map(blur, path.split("/"))) for path in each} for each in hits]


def _common_parts(hits: Sequence[set[str]]) -> set[str]:
    """Folders and names, with marks, that are in the paths of nearly all ids."""
    counts = Counter(part for each in hits for part in {part for path in each for part in path.split("/")})
    return {part for part, count in counts.items() if count >= MIN_SHARE * len(hits)}
