"""The dialect of a table of masks: by decoding its texts at the sizes of their images, with the doctor's checks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.listing import spread
from pipeline.card_draft.tables import form_of, is_empty_text, is_mask_text
from pipeline.data.rasters import ImageError
from pipeline.data.reader import DEFAULT_READER
from pipeline.data.sample import Sample
from pipeline.doctor.dialects import EncodedSample, check_dialect, format_dialect
from pipeline.quoting import shortened
from pipeline.rle import Dialect

NUM_IMAGES = 60  # that are decoded
MAX_PIXELS = 1 << 24  # larger images are not decoded


class FoundDialect(NamedTuple):
    """How masks are written.

    Args:
        evidence: one line.
        is_sure: whether order and base are certain.
        empty_evidence: of the token of an empty mask.
    """

    dialect: Dialect
    evidence: str
    is_sure: bool
    empty_evidence: str
    is_empty_sure: bool


def find_dialect(
    texts: Mapping[str, Sequence[str]], paths: Mapping[str, Path], placeholders: Sequence[str]
) -> FoundDialect:
    """The dialect in which masks fit their images.

    Args:
        texts: of the masks of each image, of all rows and classes; without any if labels are not RLE.
        paths: of the images; of several channels the first one.
        placeholders: the texts of the sample submission.
    """
    every = [text for each in texts.values() for text in each]
    empty, empty_evidence, is_empty_sure = _empty_token(every, placeholders)
    filled = next(filter(is_mask_text, [text for text in every if not is_empty_text(text)]), "")
    declared = Dialect(form=form_of(filled) if filled else "pairs")
    with suppress(ValueError):  # a token that is also a mask of this form
        declared = replace(declared, empty=empty)
    if not every:
        why = "no mask is written as a text: read the evaluation page"
        return FoundDialect(declared, why, False, empty_evidence, is_empty_sure)
    if declared.form == "coco":
        return FoundDialect(declared, "base64 of COCO's counts", True, empty_evidence, is_empty_sure)
    found, evidence, is_sure = _order_and_base(_samples(texts, paths, declared), declared)
    return FoundDialect(found, evidence, is_sure, empty_evidence, is_empty_sure)


def _order_and_base(samples: Sequence[EncodedSample], declared: Dialect) -> tuple[Dialect, str, bool]:
    """The dialect that the doctor finds, whatever it is told first; and whether both readings agree."""
    if not samples:
        return declared, "no mask of an image that can be decoded", False
    results = {}
    for order in ("column", "row"):
        told = replace(declared, order=order)
        check = check_dialect(samples, told)
        results[order] = (check.correction if isinstance(check.correction, Dialect) else told), check
    (by_column, column), (by_row, row) = results["column"], results["row"]
    agree = by_column == by_row
    found, check = (by_row, row) if column.status == "misread" and by_column.order == "row" else (by_column, column)
    shows = row if found.order == "column" else column
    evidence = f"{format_dialect(found)}: {shows.message if agree else check.message}"
    if agree and (warning := check_dialect(samples, found).warning):
        return found, f"{format_dialect(found)}, but {warning}", False
    return found, shortened(evidence, 220), agree and check.status != "shuffled"


def _samples(texts: Mapping[str, Sequence[str]], paths: Mapping[str, Path], dialect: Dialect) -> list[EncodedSample]:
    """Grey images with the texts of their masks that are not empty."""
    filled = {
        image_id: [
            part
            for text in each
            if not is_empty_text(text) and text.strip() != dialect.empty
            for part in dialect.split(text)
        ]
        for image_id, each in texts.items()
        if image_id in paths
    }
    found = []
    for image_id in spread([key for key, each in filled.items() if each], NUM_IMAGES):
        sample = Sample(image_id, (paths[image_id],))
        with suppress(ImageError, OSError):
            if np.prod(DEFAULT_READER.size(sample)) <= MAX_PIXELS:
                found.append((DEFAULT_READER.preview(sample, channels=1)[..., 0], filled[image_id]))
    return found


def _empty_token(texts: Sequence[str], placeholders: Sequence[str]) -> tuple[str, str, bool]:
    """The token of an empty mask, the evidence, and whether the training table shows it."""
    found = Counter(text.strip() for text in texts if is_empty_text(text))
    if found:
        token, count = found.most_common(1)[0]
        return token, f"'{token}' in {count} of {len(texts)} rows", True
    found = Counter(text.strip() for text in placeholders if is_empty_text(text))
    if found:
        token, count = found.most_common(1)[0]
        return token, f"'{token}' in {count} of {len(placeholders)} rows of the sample submission", True
    return "", "no text of an empty mask was seen: read the evaluation page", False
