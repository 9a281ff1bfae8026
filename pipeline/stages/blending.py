"""The stage `blend`: a weighted vote of submissions of any origin."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import competition
from pipeline.competition import Competition
from pipeline.data.file_index import normalize_id
from pipeline.data.index import test_search
from pipeline.data.reader import size_reader
from pipeline.data.sample import Sample
from pipeline.data.tables import read_header, read_rows, read_table, sample_header, split_packed_objects
from pipeline.ensemble.voting import vote, vote_classes, vote_objects
from pipeline.files import write_text
from pipeline.manifest import collect_provenance, read_submission_manifest
from pipeline.progress import track
from pipeline.quoting import listed, shortened
from pipeline.rle import RLEError
from pipeline.submission import SubmissionSummary, check_given, encode_checked, sample_rows, write_texts

Key = tuple[str, str]  # image and class
Size = tuple[int, int]  # height and width in pixels


class BlendResult(NamedTuple):
    """The outcome of the stage `blend`."""

    csv: Path
    summary: SubmissionSummary
    agreed: int  # masks, or images of objects, that all CSVs have alike; their text is copied
    ties: int  # pixels, or objects, with exactly half of the weight; of exclusive classes, with equal highest weights
    exclusive: bool  # the classes exclude each other


class Submission(NamedTuple):
    """A CSV that takes part in the vote."""

    path: Path
    cells: Mapping[Key, list[str]]  # the text of each row
    lines: Mapping[Key, int]  # of its first row


def blend(
    csvs: Sequence[Path], weights: Sequence[float], card_name: str, root: Path | None = None, name: str = ""
) -> BlendResult:
    """Write the vote of several submissions; masks that all have alike keep their text.

    Writes: submissions/<name>.csv and .json; by default the name is that of the CSVs, as in blend-a-b

    Args:
        weights: one for each; none: they are equal.
        card_name: name or path of the card, which has the dialect.
        root: the folder of the competition's files; None: data/<competition>.

    Raises:
        FileNotFoundError: if a CSV, or the sample submission, is missing.
        ValueError: for the name of an ensemble's submission, weights that do not fit, a CSV of other ids or columns,
            and a text that is no mask of its image.
    """
    shares = _checked_weights(csvs, weights)
    for path in csvs:
        check_given(path, "CSVS")
    card = competition.load(card_name)
    root = root or Path("data") / card.name
    path = Path("submissions") / f"{name or 'blend-' + '-'.join(each.stem for each in csvs)}.csv"
    if path.resolve() in [each.resolve() for each in csvs]:
        raise ValueError(f"{path} is one of the CSVs: give the blend another name, NAME=other")
    _refuse_ensemble(path)
    ballot = Ballot(card, root, csvs, shares)
    path.parent.mkdir(exist_ok=True)
    summary = write_texts(path, card, root / card.files.sample_submission, ballot.texts_of)
    _write_manifest(path, card, card_name, csvs, weights or [1.0] * len(csvs))
    return BlendResult(path, summary, ballot.agreed, ballot.ties, card.exclusive)


def _refuse_ensemble(path: Path) -> None:
    """Raise ValueError if a submission that is no blend would be replaced."""
    manifest = path.with_suffix(".json")
    if manifest.exists() and not read_submission_manifest(manifest).get("blend"):
        raise ValueError(f"{path} is a submission of the stage ensemble: give the blend another name, NAME=other")


def _checked_weights(csvs: Sequence[Path], weights: Sequence[float]) -> np.ndarray:
    if not csvs:
        raise ValueError('CSVS is empty: give the submissions to blend, as in CSVS="a.csv b.csv"')
    if weights and len(weights) != len(csvs):
        raise ValueError(f"{len(weights)} WEIGHTS for {len(csvs)} CSVS: expected one for each")
    shares = np.array(weights or [1.0] * len(csvs), dtype=np.float64)
    if not np.isfinite(shares).all() or shares.min() < 0 or shares.sum() <= 0:
        raise ValueError(f"WEIGHTS {' '.join(f'{each:g}' for each in shares)}: expected 0 or more, and not all 0")
    return shares


class Ballot:
    """The submissions of a vote, and their result, image by image.

    Args:
        root: the folder of the competition's files.
        csvs: the submissions.
        weights: of each; one of weight 0 is checked, and has no vote.

    Raises:
        FileNotFoundError, ValueError: as `blend`.
    """

    def __init__(self, card: Competition, root: Path, csvs: Sequence[Path], weights: np.ndarray):
        self.card, self.agreed, self.ties = card, 0, 0
        self._files, self._reader = test_search(card, root).find_sources(hidden=True), size_reader(card)
        sample = root / card.files.sample_submission
        submissions = [_read(path, card, sample) for path in csvs]
        for each in submissions:
            for image_id, label in track(each.cells, f"check {each.path.name}"):
                self._objects(each, (image_id, label))
        self._submissions = [each for each, weight in zip(submissions, weights, strict=True) if weight > 0]
        self._weights = weights[weights > 0]
        self._voted = lru_cache(maxsize=1)(self._vote_masks)  # consecutive rows are of one image

    def texts_of(self, image_id: str, label: str, where: str) -> list[str]:
        """The texts of the rows of an image and class.

        Args:
            where: the file and line, for messages.
        """
        first, *others = [each.cells[image_id, label] for each in self._submissions]
        is_one_text = self.card.instances or len(first) == 1  # several parts of a mask become one text
        if is_one_text and all(each == first for each in others):
            self.agreed += 1
            return first
        if self.card.instances:
            return self._vote_objects((image_id, label), where)
        mask = self._voted(image_id)[self.card.classes.index(label)]
        return [encode_checked(mask, self.card.dialect, where)] if mask.any() else []

    def _vote_masks(self, image_id: str) -> np.ndarray:
        """The masks of an image, (C, H, W) uint8; a class without a row is empty."""
        empty = np.zeros(self._size(image_id), dtype=np.uint8)
        masks = np.array(
            [[self._union(each, (image_id, label), empty) for label in self.card.classes] for each in self._submissions]
        )
        voted, ties = (vote_classes if self.card.exclusive else vote)(masks, self._weights)
        self.ties += ties
        return voted

    def _union(self, of: Submission, key: Key, empty: np.ndarray) -> np.ndarray:
        return np.maximum.reduce([empty, *(mask for _, mask in self._objects(of, key))]) if key in of.cells else empty

    def _vote_objects(self, key: Key, where: str) -> list[str]:
        packed = self.card.columns.packed_objects
        found = [self._objects(each, key) for each in self._submissions]
        painted = [self._paint(objects, each, key) for objects, each in zip(found, self._submissions, strict=True)]
        confidences = [
            np.array([of for of, _ in objects])[kept] for objects, (_, kept) in zip(found, painted, strict=True)
        ]
        voted = vote_objects([labels for labels, _ in painted], self._weights, confidences if packed else None)
        self.ties += voted.ties
        masks = [(voted.labels == number).astype(np.uint8) for number in range(1, len(voted.confidences) + 1)]
        texts = [encode_checked(mask, self.card.dialect, where) for mask in masks]
        if not packed:
            return texts
        words = [
            packed.replace("{confidence}", f"{confidence:.6f}").replace("{mask}", text)
            for confidence, text in zip(voted.confidences, texts, strict=True)
        ]
        return [" ".join(words)] if words else []

    def _paint(
        self, objects: Sequence[tuple[float, np.ndarray]], of: Submission, key: Key
    ) -> tuple[np.ndarray, np.ndarray]:
        """The labels (H, W) of objects, numbered from 1, and the positions of those that can be seen.

        Where objects with confidences overlap, the one of most confidence has the pixel.
        """
        labels = np.zeros(self._size(key[0]), dtype=np.int32)
        for position in sorted(range(len(objects)), key=lambda each: objects[each][0]):
            mask = objects[position][1] == 1
            if not self.card.columns.packed_objects and labels[mask].any():
                raise ValueError(
                    f"{of.path}: line {of.lines[key]}, image '{shortened(key[0])}': objects {labels[mask].max()} and "
                    f"{position + 1} overlap: expected one object per pixel"
                )
            labels[mask] = position + 1
        return labels, np.unique(labels[labels > 0]) - 1

    def _objects(self, of: Submission, key: Key) -> list[tuple[float, np.ndarray]]:
        """Confidence (1 if there is none) and mask of each object, or the mask, of an image and class."""
        where, size = f"{of.path}: line {of.lines[key]}, image '{shortened(key[0])}'", self._size(key[0])
        found: list[tuple[float, str]] = []
        for cell in of.cells[key]:
            blank = cell.strip() in ("", self.card.dialect.empty.strip())
            if packed := self.card.columns.packed_objects:
                found += [] if blank else split_packed_objects(cell, packed.split(), where)
            elif not blank:
                found.append((1.0, cell))
        try:
            return [(confidence, self.card.dialect.decode(text, size)) for confidence, text in found]
        except RLEError as error:
            raise ValueError(f"{where}: {error}") from None

    def _size(self, image_id: str) -> Size:
        if self.card.size:
            return self.card.size
        if image_id not in self._files:
            raise ValueError(f"image '{shortened(image_id)}': no file among the test images, so its size is not known")
        return self._reader.size(Sample(image_id, self._files[image_id]))


def _read(path: Path, card: Competition, sample: Path) -> Submission:
    """The rows of a CSV, whose columns and ids must be those of the sample submission, in any order."""
    header, expected = sample_header(sample, card.columns), sample_rows(card, sample)
    if sorted(map(normalize_id, read_header(path))) != sorted(map(normalize_id, header)):
        raise ValueError(
            f"{path}: columns {listed(read_header(path))}, but the sample submission has {listed(header)}: is it of "
            f"{card.name}?"
        )
    rows = read_rows(path, [card.columns], card.classes)
    rows["cell"] = read_table(path, [card.columns.rle])[card.columns.rle].to_numpy()
    keys = list(zip(rows["image_id"], rows["label"], strict=True))
    has_several = card.several_rows or card.has_object_rows
    cells: dict[Key, list[str]] = {}
    lines: dict[Key, int] = {}
    for key, cell, line in zip(keys, rows["cell"], rows["line"].tolist(), strict=True):
        cells.setdefault(key, []).append(cell)
        if lines.setdefault(key, line) != line and not has_several:
            raise ValueError(f"{path}: line {line}: id '{shortened(key[0])}' repeats: expected one row per mask")
    other = sorted(set(cells) ^ set(zip(expected["image_id"], expected["label"], strict=True)))
    if other:
        raise ValueError(
            f"{path}: {len(other)} ids differ from the sample submission's ({sample}), such as "
            f"'{shortened(', '.join(other[0]) if len(card.classes) > 1 else other[0][0])}': is it of {card.name}?"
        )
    return Submission(path, cells, lines)


def _write_manifest(
    path: Path, card: Competition, card_name: str, csvs: Sequence[Path], weights: Sequence[float]
) -> None:
    """Write what a blend is made of; it has no OOF score."""
    manifest = {
        "competition": card.name,
        "configs": {path.stem: {"competition": card_name}},
        "blend": [
            {"csv": str(each), "weight": weight, "sha256": hashlib.sha256(each.read_bytes()).hexdigest()}
            for each, weight in zip(csvs, weights, strict=True)
        ],
        "metric": card.metric,
        "oof_score": None,
        **collect_provenance(),
    }
    write_text(path.with_suffix(".json"), json.dumps(manifest, indent=1) + "\n")
