"""The training and the test images: which files they are, and what some of them contain."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.card_draft.image_folders import (
    TEST,
    VALIDATION,
    Images,
    Rule,
    find_images,
    folders_of,
    generalised,
    is_held_out,
)
from pipeline.card_draft.listing import Listing, readable, spread
from pipeline.card_draft.sources import Sources
from pipeline.data.formats import is_dicom, read_header, read_pixels
from pipeline.data.medical import is_nifti_name, slices_of
from pipeline.data.rasters import ImageError
from pipeline.quoting import listed, shortened

NUM_HEADERS = 100  # of images of each part
NUM_PIXELS = 3  # images that are decoded for their channels
OF_VALIDATION = re.compile(rf"(?i:(?<![a-z])val)|{VALIDATION.pattern}")  # of masks, also as valannot/x.png
MAX_PIXELS = 1 << 24


class Parts(NamedTuple):
    """The files of the training and test images.

    Args:
        train, test: paths by id, below root; masks are left out.
        test_folder, test_evidence, is_test_sure: where test images are, what shows it, and whether it is certain.
    """

    images: Images
    train: dict[str, list[str]]
    test: dict[str, list[str]]
    test_folder: str
    test_evidence: str
    is_test_sure: bool
    root: Path

    @property
    def rule(self) -> Rule:
        """Which files are images, and their ids."""
        return self.images.rule

    @property
    def has_volumes(self) -> bool:
        """Whether some files are NIfTI volumes, whose slices are the images."""
        return any(is_nifti_name(Path(path)) for each in self.train.values() for path in each)


def find_train(listing: Listing, sources: Sources) -> Parts:
    """The training and test images.

    Raises:
        ValueError: if no image belongs to the labels' ids.
    """
    images = sources.masks.images if sources.masks else find_images(sources.ids, listing.images)
    if images is None and (volumes := _volumes_of(sources.ids, listing)):
        images = find_images(volumes, listing.images)
    if images is None:
        raise ValueError(
            f"{listing.root}: no image has an id of {sources.label_file}, such as '{shortened(sources.ids[0])}'; the "
            f"images are such as {listed(spread(listing.images, 2))}: are these the files of this table?"
        )
    masks = sources.masks.rule.files(listing.images).values() if sources.masks else ()
    are_masks = {path for paths in masks for path in paths}
    if sources.masks:
        are_masks |= sources.masks.candidates
    rest = [path for path in listing.images if path not in are_masks]
    folder, rule, evidence, is_sure = _test_folder(images.rule, rest, sources, listing)
    rule = _without_test_masks(rule, folder, listing.images, sources)
    images = images._replace(rule=rule)
    train = rule.files(rest)
    return Parts(images, train, rule.at(folder).files(rest), folder, evidence, is_sure, listing.root)


def _volumes_of(ids: Sequence[str], listing: Listing) -> list[str]:
    """The volumes of ids that are slices of NIfTI files."""
    if not any(path.lower().endswith((".nii", ".nii.gz")) for path in listing.images):
        return []
    return list(dict.fromkeys(image_id.rpartition("_")[0] for image_id in ids if "_" in image_id))


def _test_folder(rule: Rule, paths: Sequence[str], sources: Sources, listing: Listing) -> tuple[str, Rule, str, bool]:
    """The folder of the test images, the rule for both folders, the evidence, and whether it is certain."""
    test_ids = sources.test_ids
    for each in filter(None, (rule, _of_both_parts(rule))):
        if found := folders_of(each, paths, test_ids):
            folder, count = found.most_common(1)[0]
            evidence = f"{count} of {len(test_ids)} ids of {sources.sample.name}"
            return folder, each, evidence, count == len(test_ids)
    for is_part in (partial(is_held_out, word=TEST), partial(_is_unlabelled_validation, sources=sources)):
        for each in filter(None, (rule, _of_both_parts(rule), _without_folders(rule))):
            for folder, count in _nearest_first(folders_of(each, paths), rule.folder):
                if folder != rule.folder and is_part(folder):
                    return folder, each, f"{count} files; no id of a sample submission is there", False
    guesses = [re.sub("train(ing)?", "test", rule.folder)] if "train" in rule.folder else ["test", "test_images"]
    guess = next((each for each in guesses if not _has_files(each, listing.images)), "no_test_images")
    there = "an empty folder" if guess in listing.folders else "no such folder"
    return guess, rule, f"no test images in the files: {there}", False


def _nearest_first(folders: Counter[str], train: str) -> list[tuple[str, int]]:
    """Folders with their numbers of files: of most files first, then those most like the training folder."""
    parts = set(train.split("/"))
    return sorted(folders.items(), key=lambda item: (-item[1], -len(parts & set(item[0].split("/")))))


def _is_unlabelled_validation(folder: str, sources: Sources) -> bool:
    """Whether a folder is of a validation part, none of whose images has a mask: they are to be predicted."""
    return bool(
        sources.masks
        and is_held_out(folder, VALIDATION)
        and not any(map(OF_VALIDATION.search, sources.masks.candidates | {sources.masks.rule.folder}))
    )


def _has_files(folder: str, paths: Sequence[str]) -> bool:
    return any(path.startswith(f"{folder}/") for path in paths)


def _without_test_masks(rule: Rule, folder: str, paths: Sequence[str], sources: Sources) -> Rule:
    """The rule, or one for ids of the same form as those of training images, if the rule takes masks of test images,
    in the same folder, for images.
    """
    if not sources.masks or rule.pattern is not None or sources.masks.rule.folder != rule.folder:
        return rule
    masks = {path for each in sources.masks.rule.at(folder).files(paths).values() for path in each}
    images = {path for each in rule.at(folder).files(paths).values() for path in each}
    narrow = Rule(rule.folder, "", f"({generalised(sources.ids)}){re.escape(rule.suffix)}")
    kept = {path for each in narrow.at(folder).files(paths).values() for path in each}
    return narrow if kept and kept == images - masks else rule


def _of_both_parts(rule: Rule) -> Rule | None:
    """A rule with the word for the training part replaced by one for either part: 21_training.tif, 01_test.tif."""
    text = rf"([^/]+){re.escape(rule.suffix)}" if rule.pattern is None else rule.pattern
    both, count = re.subn(r"train(ing)?", "(?:training|train|testing|test)", text)
    return Rule(rule.folder, "", both) if count else None


def _without_folders(rule: Rule) -> Rule | None:
    """A rule for the files of one part in folders, as of findings, and of the other part without them."""
    start = "[^/]*/"
    has_folders = rule.pattern is not None and rule.pattern.startswith(start)
    return Rule(rule.folder, "", f"(?:{start})?{rule.pattern.removeprefix(start)}") if has_folders else None


def check_volumes(root: Path, found: Parts, sources: Sources) -> None:
    """Refuse volumes of masks without volumes of images, and those with another number of slices, as those of several
    sequences in one file.

    Damaged ones are left to the doctor.

    Raises:
        ValueError: with the first one.
    """
    if not sources.masks:
        return
    masks = sources.masks.rule.files(sources.masks.candidates)
    if not found.has_volumes and any(is_nifti_name(Path(path)) for each in masks.values() for path in each):
        raise ValueError(
            f"{root}: masks are NIfTI volumes, but images, such as {shortened(min(found.train.values())[0], 60)}, are "
            f"not: save each series of images as a NIfTI volume, or each slice of the masks as an image"
        )
    if not found.has_volumes:
        return
    for image_id in spread([each for each in sources.ids if each in found.train and each in masks], NUM_PIXELS):
        image, mask = root / found.train[image_id][0], root / masks[image_id][0]
        if not (is_nifti_name(image) and is_nifti_name(mask)):
            continue
        try:
            slices, of_mask = len(slices_of(image)), len(slices_of(mask))
        except (ImageError, OSError):
            continue
        if slices != of_mask:
            raise ValueError(
                f"{image}: {slices} slices, but {of_mask} in its mask {mask.name}: if the file has several sequences, "
                f"or times, save each as a volume of its own, as {image_id}_0000.nii.gz"
            )


class Measured(NamedTuple):
    """What some images are."""

    one_channel: bool
    medical: bool
    facts: tuple[tuple[str, str], ...]


def measure(root: Path, found: Parts) -> Measured:
    """Sizes of some images, from their headers, and the channels of a few.

    Raises:
        ValueError: if none of them can be read.
    """
    some = [path for part in (found.train, found.test) for path in spread(list(part.values()), NUM_HEADERS)]
    headers, faults = {}, []
    for path, *_ in some:
        try:
            image = readable(root / path)
            headers[image] = read_header(image)
        except (ImageError, OSError) as error:
            faults.append(str(error))
    if faults and not headers:
        raise ValueError(f"none of {len(faults)} images can be read, the first: {faults[0]}")
    sizes = Counter((header.height, header.width) for header in headers.values())
    small = [path for path, header in headers.items() if header.height * header.width <= MAX_PIXELS]
    pictures = [pixels for path in spread(small, NUM_PIXELS) if (pixels := _pixels(path)) is not None]
    grey = bool(pictures) and all((each == each[..., :1]).all() for each in pictures)
    channels = sorted({each.shape[2] for each in pictures})
    medical = any(is_dicom(path) for path in spread(list(headers), 1))
    shown = ", ".join(f"{height}×{width}" for (height, width), _ in sizes.most_common(3))
    facts = [("sizes", f"{shown}{' …' if len(sizes) > 3 else ''} (height×width, of {len(headers)} images)")]
    if pictures:
        dtypes = ", ".join(sorted({str(each.dtype) for each in pictures}))
        low, high = (float(find([find(each) for each in pictures])) for find in (np.nanmin, np.nanmax))
        equal = ", all equal" if grey and channels[-1] > 1 else ""
        facts.append(("pixels", f"{'/'.join(map(str, channels))} channels{equal}, {dtypes}, {low:g} to {high:g}"))
    return Measured(channels == [1], medical, tuple(facts))


def _pixels(path: Path) -> np.ndarray | None:
    try:
        return read_pixels(path)
    except (ImageError, OSError):
        return None
