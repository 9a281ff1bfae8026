"""Run-length encoding: masks to the text of a submission and back, in every Kaggle dialect.

A mask is (H, W), its text a list of runs: "3 2 9 1" is pixels 3, 4 and 9. Competitions differ in how
pixels are numbered and how an empty mask is written; a `Dialect` holds these differences.

    >>> mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=np.uint8)
    >>> encode(mask)
    '3 3'
    >>> Dialect(order="row").encode(mask)
    '2 1 4 2'
    >>> decode("3 3", (3, 2)).tolist()
    [[0, 1], [0, 1], [1, 0]]
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.quoting import shortened
from pipeline.rle import bracketed, coco, pairs
from pipeline.rle.pixels import mask_of_runs, runs_of_mask
from pipeline.rle.runs import LARGEST, RLEError, Runs, area, no_runs, overlap, pixel_count
from pipeline.rle.strips import runs_of_strips, window_of_runs

__all__ = ["Dialect", "RLEError", "Runs", "area", "decode", "empty_advice", "encode", "mask_of_counts", "overlap"]

# Numbers that tables have been seen to hold for a mask without a pixel; words without a digit may be one too.
EMPTIES = {"-1", "-1.0", "-1 -1", "-1 0", "0", "0.0", "0 0", "1 0", "[0]", "[-1]"}
WORD = 20  # characters that such a word has at most

FORMS = ("pairs", "list", "coco")
FEW = 50_000  # texts of 100 runs; fewer are read in less time than it takes to load numba
UNBOUNDED = 1 << 62  # pixels


@dataclass(frozen=True)
class Dialect:
    """How one competition writes masks. The default is what most of Kaggle's competitions use.

    A run of pixels a..b-1, numbered from 0 in `order`, with the previous run ending before pixel e:

        absolute:  "{a + base} {b - a}"
        relative:  "{a - e} {b - a}", and e = 0 for the first run

    Args:
        order: "column" numbers pixels from top to bottom, then left to right; "row" from left to
            right, then top to bottom.
        base: number of the first pixel, 0 or 1. A relative text holds only distances, which are the
            same from any base, so there it changes nothing.
        relative: write the gap to the end of the previous run in place of the start.
        empty: token of a mask without a pixel. A blank text reads as an empty mask in any dialect.
        form: how the numbers are written. "pairs", "3 2 9 1"; "list", "[3, 2, 9, 1]", with the instances of an
            image joined by ";", which `split` takes apart; "coco", the base64 of COCO's compressed counts, deflated.
            That one has an order and a base of its own.

    Raises:
        ValueError: for an unknown order, base or form, an order or base beside COCO's form, or an `empty` that a
            mask with pixels could have too.

    Source:
        Relative form: mask_functions.py of SIIM-ACR Pneumothorax Segmentation,
        https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data
    """

    order: Literal["column", "row"] = "column"
    base: int = 1
    relative: bool = False
    empty: str = ""
    form: Literal["pairs", "list", "coco"] = "pairs"

    # pydantic reads this when a card embeds a Dialect: a misspelt key is refused, not dropped.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.order not in ("column", "row"):
            raise ValueError(f"unknown order '{self.order}'. Known orders: column, row.")
        if self.base not in (0, 1):
            raise ValueError(f"base is the number of the first pixel: expected 0 or 1, got {self.base}")
        if self.form not in FORMS:
            raise ValueError(f"unknown form '{self.form}'. Known forms: {', '.join(FORMS)}.")
        if self.form == "coco" and (self.order, self.base, self.relative) != ("column", 1, False):
            raise ValueError("form 'coco' counts pixels in column order, from none: drop order, base and relative")
        if self.empty.strip() and self._is_valid(self.empty):
            raise ValueError(
                f"empty token '{self.empty}' is also the text of a mask with pixels, which would be read "
                "as empty: take the competition's token, or '' if it has none"
            )

    def encode(self, mask: np.ndarray) -> str:
        """The text of a mask. Takes any memory layout; C- and Fortran-contiguous need no copy.

        Shapes:
            mask: (H, W), bool or uint8, 0 or 1.

        Raises:
            ValueError: if mask has another dtype, number of axes or value, or no pixels.
        """
        return self._text(runs_of_mask(mask, self.order), np.asarray(mask).size)

    def encode_strips(self, strips: Iterable[np.ndarray]) -> str:
        """The text of a mask that is never held whole.

        Shapes:
            strips: in column order (H, w) each, from left to right; in row order (h, W), from top to bottom; as
                `encode` takes a mask.

        Raises:
            ValueError: if the strips do not fit to each other, or as `encode`.
        """
        return self._text(*runs_of_strips(strips, self.order))

    def _text(self, runs: Runs, pixels: int) -> str:
        if not runs[0].size:
            return self.empty
        if self.form == "coco":
            return coco.write(runs, pixels)
        numbers = pairs.numbers_of(runs, self.base, self.relative)
        return bracketed.join(numbers) if self.form == "list" else pairs.join(numbers)

    def decode(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        """The mask of a text: the inverse of encode.

        Args:
            shape: (H, W) of the mask, in pixels.

        Shapes:
            returns: (H, W) uint8, 0 or 1, C-contiguous.

        Raises:
            RLEError: as `runs` with a shape.
            ValueError: if shape is not two positive numbers.
        """
        return mask_of_runs(self.runs(text, shape), (int(shape[0]), int(shape[1])), self.order)

    def window(self, runs: Runs, shape: tuple[int, int], window: tuple[slice, slice]) -> np.ndarray:
        """A window, by its rows and columns, of the mask (H, W) whose runs these are; (h, w) uint8."""
        return window_of_runs(runs, shape, window, self.order)

    def runs(self, text: str, shape: tuple[int, int] | None = None) -> Runs:
        """Starts and ends of a text's runs: all that can be read and checked without painting the mask.

        Runs may touch ("1 2 3 1"), as they do in some training files, but not overlap.

        Args:
            shape: (H, W) of the mask, in pixels; None leaves unchecked whether the runs lie inside.

        Shapes:
            returns: (N,) and (N,) int64; run i is pixels starts[i] .. ends[i] - 1, numbered from 0
                in the dialect's order.

        Raises:
            RLEError: if text is not a str, holds something that is not an integer, an odd count of
                numbers, a length below 1, or runs that are unsorted, overlap, begin before the
                first pixel or end past the last of shape. The message names the run, counted from 1,
                and the place in the text, counted from 0: text[place:] begins with what is wrong.
                What else COCO's form and a list may do wrong is said in their modules.
            ValueError: if shape is not two positive numbers.
        """
        if shape is not None:
            pixel_count(shape)
        if not isinstance(text, str):
            raise RLEError(
                f"an rle is a str, got {text!r} of type {type(text).__name__}: "
                "read the CSV with dtype=str and keep_default_na=False"
            )
        if text.strip() in ("", self.empty.strip()):
            return no_runs()
        try:
            return self._read(text, shape)
        except RLEError as error:
            if advice := empty_advice(text):
                raise RLEError(f"{error.fault}; {advice}") from None
            raise

    def runs_of(self, texts: Sequence[str], shapes: Sequence[tuple[int, int]] | None = None) -> list[Runs]:
        """The runs of every text, as `runs` gives them one by one; a table's worth in a fraction of the time.

        Args:
            shapes: (H, W) of each text's mask, in pixels; None leaves unchecked whether runs lie inside.

        Raises:
            RLEError: that of the first text `runs` refuses, with its `number`, counted from 0.
            ValueError: if there are not as many shapes as texts, or one is not two positive numbers.
        """
        if shapes is not None and len(shapes) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(shapes)} shapes: expected one (height, width) for each")
        found = self._plain_runs_of(texts, shapes)
        for number, runs in enumerate(found):
            if runs is None:
                found[number] = self._numbered_runs(number, texts[number], shapes and shapes[number])
        return found

    def split(self, text: str) -> list[str]:
        """The texts of the instances that stand in one cell of a table: several only in the form of lists."""
        return text.split(";") if self.form == "list" else [text]

    def _plain_runs_of(self, texts: Sequence[str], shapes: Sequence[tuple[int, int]] | None) -> list[Runs | None]:
        """The runs of the texts that are plainly right, None for each other one."""
        if self.form != "pairs" or len(texts) < FEW:
            return [None] * len(texts)
        from pipeline.rle import table

        unbounded = np.full(len(texts), UNBOUNDED)
        sizes = unbounded if shapes is None else np.array([pixel_count(shape) for shape in shapes], dtype=np.int64)
        return table.read(texts, sizes, self.base, self.relative)

    def _numbered_runs(self, number: int, text: str, shape: tuple[int, int] | None) -> Runs:
        try:
            return self.runs(text, shape)
        except RLEError as error:
            raise RLEError(error.fault, number) from None

    def _read(self, text: str, shape: tuple[int, int] | None) -> Runs:
        """Runs of a text that is neither blank nor the empty token."""
        if self.form == "coco":
            return coco.read(text, shape)
        plain = bracketed.plain(text) if self.form == "list" else text
        return pairs.read(plain, self.base, self.relative, shape)

    def _is_valid(self, text: str) -> bool:
        try:
            return self._read(text, None)[0].size > 0
        except RLEError:
            return False


def empty_advice(text: str) -> str | None:
    """What to do about a text that usually stands for a mask without a pixel; None for any other.

    >>> print(empty_advice("-1"))
    if '-1' stands for an empty mask, set [dialect] empty = "-1" on the card
    """
    token = text.strip()
    if token not in EMPTIES and (len(token) > WORD or any(letter.isdigit() for letter in token)):
        return None
    return f"if '{token}' stands for an empty mask, set [dialect] empty = \"{token}\" on the card"


KAGGLE = Dialect()


def mask_of_counts(counts: Any, shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of COCO's runs as its JSON has them: a list of counts, or their letters.

    Raises:
        RLEError: for counts that are none, or do not add up to the pixels of shape.
    """
    if isinstance(counts, str):
        numbers = coco.counts_of_letters(counts.encode())
    elif isinstance(counts, list) and all(type(each) is int and 0 <= each <= LARGEST for each in counts):
        numbers = np.array(counts, dtype=np.int64)
    else:
        raise RLEError(f"counts {shortened(counts, 40)}: expected whole numbers from 0, or COCO's letters")
    return mask_of_runs(coco.runs_of_counts(numbers, shape), shape, "column")


def encode(mask: np.ndarray) -> str:
    """The text of a (H, W) mask in Kaggle's default dialect. See Dialect.encode."""
    return KAGGLE.encode(mask)


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The (H, W) mask of a text in Kaggle's default dialect. See Dialect.decode."""
    return KAGGLE.decode(text, shape)
