"""Run-length encoding: masks to the text of a submission and back, in every Kaggle dialect.

A mask is (H, W); its text is a list of runs, each a start and a length: "3 2 9 1" is pixels 3, 4 and 9. Competitions
differ in how pixels are numbered and how an empty mask is written. A dialect is one competition's choice.

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
from pipeline.rle.runs import (
    MAX_PIXELS,
    RLEError,
    Runs,
    area,
    find_overlap,
    no_runs,
    overlap,
    pixel_count,
    union,
    without,
)
from pipeline.rle.strips import runs_of_strips, window_of_runs

__all__ = [
    "EMPTY_TOKENS",
    "Dialect",
    "RLEError",
    "Runs",
    "area",
    "decode",
    "encode",
    "find_overlap",
    "mask_of_counts",
    "no_runs",
    "overlap",
    "suggest_empty_token",
    "union",
    "without",
]

# Tokens that tables use for an empty mask; short words without a digit may be such a token too.
EMPTY_TOKENS = {"-1", "-1.0", "-1 -1", "-1 0", "0", "0.0", "0 0", "1 0", "[0]", "[-1]"}
MAX_TOKEN_LENGTH = 20  # characters of such a word

FORMS = ("pairs", "list", "coco")
MIN_TEXTS_FOR_NUMBA = 50_000  # fewer texts (of 100 runs) are read in less time than numba needs to load
UNBOUNDED = 1 << 62  # pixels, in place of an unknown image size


@dataclass(frozen=True)
class Dialect:
    """How one competition writes masks. The default is that of most Kaggle competitions.

    A run of pixels a..b-1, numbered from 0 in `order`, with the previous run ending before pixel e:

        absolute:  "{a + base} {b - a}"
        relative:  "{a - e} {b - a}", and e = 0 for the first run

    Args:
        order: "column" numbers pixels from top to bottom, then left to right; "row" from left to
            right, then top to bottom.
        base: number of the first pixel, 0 or 1. A relative text holds only distances, which are the
            same from any base, so it has no effect there.
        relative: write the gap to the end of the previous run instead of the start.
        empty: token of a mask without a pixel. A blank text is an empty mask in any dialect.
        form: how the numbers are written. "pairs": "3 2 9 1"; "list": "[3, 2, 9, 1]", with the instances of an image
            joined by ";", see `split`; "coco": COCO's compressed counts, deflated, in base64, with a fixed order and
            base.

    Raises:
        ValueError: if order, base or form is unknown, order or base is set with form "coco", or `empty` is also the
            text of a mask with pixels.

    Source:
        Relative form: mask_functions.py of SIIM-ACR Pneumothorax Segmentation,
        https://www.kaggle.com/competitions/siim-acr-pneumothorax-segmentation/data
    """

    order: Literal["column", "row"] = "column"
    base: int = 1
    relative: bool = False
    empty: str = ""
    form: Literal["pairs", "list", "coco"] = "pairs"

    # pydantic reads this when a card embeds a Dialect: a misspelt key is an error.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.order not in ("column", "row"):
            raise ValueError(f"unknown order '{shortened(self.order)}'. Known orders: column, row.")
        if self.base not in (0, 1):
            raise ValueError(f"base is the number of the first pixel: expected 0 or 1, got {self.base}")
        if self.form not in FORMS:
            raise ValueError(f"unknown form '{shortened(self.form)}'. Known forms: {', '.join(FORMS)}.")
        if self.form == "coco" and (self.order, self.base, self.relative) != ("column", 1, False):
            raise ValueError("form 'coco' has its own pixel order and base: remove order, base and relative")
        if self.empty.strip() and self._is_mask_with_pixels(self.empty):
            raise ValueError(
                f"empty token '{self.empty}' is also the text of a mask with pixels, which would be read "
                "as empty: set the competition's token, or '' if it has none"
            )

    def encode(self, mask: np.ndarray) -> str:
        """The text of a mask, in any memory layout. C- and Fortran-contiguous masks are not copied.

        Shapes:
            mask: (H, W), bool or uint8, 0 or 1.

        Raises:
            ValueError: if mask has another dtype, number of axes or value, or no pixels.
        """
        return self._format(runs_of_mask(mask, self.order), np.asarray(mask).size)

    def encode_strips(self, strips: Iterable[np.ndarray]) -> str:
        """The text of a mask that arrives in strips, so that it is never in memory as a whole.

        Shapes:
            strips: in column order (H, w) each, from left to right; in row order (h, W) each, from top to bottom;
                bool or uint8, 0 or 1.

        Raises:
            ValueError: if the strips differ in length, or as `encode`.
        """
        return self._format(*runs_of_strips(strips, self.order))

    def _format(self, runs: Runs, pixels: int) -> str:
        if not runs[0].size:
            return self.empty
        if self.form == "coco":
            return coco.write(runs, pixels)
        numbers = pairs.numbers_of_runs(runs, self.base, self.relative)
        return bracketed.format_numbers(numbers) if self.form == "list" else pairs.format_numbers(numbers)

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
        """A window of the mask with these runs.

        Args:
            shape: (H, W) of the mask, in pixels.
            window: rows and columns of the window, inside the mask.

        Shapes:
            returns: (h, w) uint8, 0 or 1.
        """
        return window_of_runs(runs, shape, window, self.order)

    def runs(self, text: str, shape: tuple[int, int] | None = None) -> Runs:
        """The starts and ends of a text's runs, checked, without the mask.

        Runs may touch ("1 2 3 1"), as in some training files, but not overlap.

        Args:
            shape: (H, W) of the mask, in pixels; None skips the check that the runs are inside.

        Shapes:
            returns: (N,) and (N,) int64; run i is pixels starts[i] .. ends[i] - 1, numbered from 0
                in the dialect's order.

        Raises:
            RLEError: if text is not a str, has a token that is not an integer, an odd count of numbers, a length
                below 1, or runs that are unsorted, overlap, begin before the first pixel or end past the last of
                shape. The message gives the run, counted from 1, and the character, counted from 0, where the
                error begins. The modules `coco` and `bracketed` list the further errors of their forms.
            ValueError: if shape is not two positive numbers.
        """
        if shape is not None:
            pixel_count(shape)
        if not isinstance(text, str):
            raise RLEError(
                f"expected an RLE as str, got {text!r} of type {type(text).__name__}: "
                "read the CSV with dtype=str and keep_default_na=False"
            )
        if text.strip() in ("", self.empty.strip()):
            return no_runs()
        try:
            return self._read(text, shape)
        except RLEError as error:
            if advice := suggest_empty_token(text):
                raise RLEError(f"{error.fault}; {advice}") from None
            raise

    def runs_of(self, texts: Sequence[str], shapes: Sequence[tuple[int, int]] | None = None) -> list[Runs]:
        """The runs of many texts, as `runs` returns them one by one, but several times faster for large tables.

        Args:
            shapes: (H, W) of each text's mask, in pixels; None skips the check that runs are inside.

        Raises:
            RLEError: of the first text that is not valid, with its `number`, counted from 0.
            ValueError: if there are not as many shapes as texts, or one is not two positive numbers.
        """
        if shapes is not None and len(shapes) != len(texts):
            raise ValueError(f"{len(texts)} texts, but {len(shapes)} shapes: expected one (height, width) for each")
        return [
            self._runs_of_text(number, texts[number], None if shapes is None else shapes[number])
            if runs is None
            else runs
            for number, runs in enumerate(self._fast_runs(texts, shapes))
        ]

    def split(self, text: str) -> list[str]:
        """The texts of the instances in one cell of a table; only the form "list" can hold several."""
        return text.split(";") if self.form == "list" else [text]

    def _fast_runs(self, texts: Sequence[str], shapes: Sequence[tuple[int, int]] | None) -> list[Runs | None]:
        """The runs of the texts that the compiled scan could read; None for each other text."""
        if self.form != "pairs" or len(texts) < MIN_TEXTS_FOR_NUMBA:
            return [None] * len(texts)
        from pipeline.rle import table

        unbounded = np.full(len(texts), UNBOUNDED)
        sizes = unbounded if shapes is None else np.array([pixel_count(shape) for shape in shapes], dtype=np.int64)
        return table.read(texts, sizes, self.base, self.relative)

    def _runs_of_text(self, number: int, text: str, shape: tuple[int, int] | None) -> Runs:
        try:
            return self.runs(text, shape)
        except RLEError as error:
            raise RLEError(error.fault, number) from None

    def _read(self, text: str, shape: tuple[int, int] | None) -> Runs:
        """The runs of a text that is neither blank nor the empty token."""
        if self.form == "coco":
            return coco.read(text, shape)
        plain = bracketed.strip_brackets(text) if self.form == "list" else text
        return pairs.read(plain, self.base, self.relative, shape)

    def _is_mask_with_pixels(self, text: str) -> bool:
        try:
            return self._read(text, None)[0].size > 0
        except RLEError:
            return False


def suggest_empty_token(text: str) -> str | None:
    """Advice to set the empty token, for a text that usually stands for an empty mask; None for other texts.

    >>> print(suggest_empty_token("-1"))
    if '-1' stands for an empty mask, set [dialect] empty = "-1" on the card
    """
    token = text.strip()
    if token not in EMPTY_TOKENS and (len(token) > MAX_TOKEN_LENGTH or any(letter.isdigit() for letter in token)):
        return None
    return f"if '{token}' stands for an empty mask, set [dialect] empty = \"{token}\" on the card"


DEFAULT_DIALECT = Dialect()


def mask_of_counts(counts: Any, shape: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) uint8 of runs in a COCO JSON file: a list of counts, or COCO's compressed letters.

    Raises:
        RLEError: if counts are neither, or do not add up to the pixels of shape.
    """
    if isinstance(counts, str):
        numbers = coco.counts_of_letters(counts.encode())
    elif isinstance(counts, list) and all(type(each) is int and 0 <= each <= MAX_PIXELS for each in counts):
        numbers = np.array(counts, dtype=np.int64)
    else:
        raise RLEError(f"counts {shortened(counts, 40)}: expected whole numbers from 0, or COCO's letters")
    return mask_of_runs(coco.runs_of_counts(numbers, shape), shape, "column")


def encode(mask: np.ndarray) -> str:
    """The text of a (H, W) mask in Kaggle's default dialect. See Dialect.encode."""
    return DEFAULT_DIALECT.encode(mask)


def decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The (H, W) mask of a text in Kaggle's default dialect. See Dialect.decode."""
    return DEFAULT_DIALECT.decode(text, shape)
