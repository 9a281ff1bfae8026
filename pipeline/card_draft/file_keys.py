"""The keys of a card's files, and of training images without a label."""

import re
from collections.abc import Iterable, Iterator, Sequence

from pipeline.card_draft.draft import Key
from pipeline.card_draft.listing import stem_of
from pipeline.card_draft.parts import Parts
from pipeline.card_draft.sources import Sources, texts_by_image
from pipeline.competition import DRAFTED_SAMPLE
from pipeline.data.formats import read_pixels
from pipeline.data.rasters import ImageError
from pipeline.quoting import listed, shortened

EMPTY_FOLDER = re.compile(r"good|normal|healthy|negative|(?<![a-z])(ok|free|no|non|without)(?![a-z])", re.IGNORECASE)


def file_keys(sources: Sources, found: Parts) -> Iterator[Key]:
    """The keys of [files]."""
    rule, images = found.rule, found.images
    missing = [image_id for image_id in sources.ids if image_id not in found.train]
    others = f"; other files of the same ids: {listed(images.others)}" if images.others else ""
    evidence = f"{len(sources.ids) - len(missing)} of {len(sources.ids)} ids of {sources.label_file}{others}"
    yield Key("files.train_images", rule.folder or ".", evidence, not images.others)
    yield Key("files.test_images", found.test_folder or ".", found.test_evidence, found.is_test_sure)
    yield from _label_keys(sources)
    if sources.sample is None:
        reason = (
            f"no sample submission in the files: this one is written, a row for each of {len(found.test)} test images; "
            "replace it with the competition's, if there is one"
        )
        yield Key("files.sample_submission", DRAFTED_SAMPLE, reason, False)
    elif sources.sample.name != "sample_submission.csv":
        yield Key("files.sample_submission", sources.sample.name, f"its name, {len(sources.sample.cells)} rows")
    pages = _num_pages(found) if images.channels else 1
    if images.channels:
        reason = f"{len(images.channels)} files for each id: the order of the channels is alphabetical"
        if pages > 1:
            reason = f"{len(images.channels)} files for each id, of several channels each: are all of them channels?"
        if images.channel_path:
            yield Key("files.channel_path", images.channel_path, reason, pages <= 1)
        yield Key("files.channels", list(images.channels), reason, pages <= 1)
    elif rule.pattern is not None:
        reason, repeated = f"{len(found.train)} training and {len(found.test)} test files", _repeated(found)
        yield Key("files.pattern", rule.pattern, f"{reason}{repeated}", not repeated)
    elif rule.suffix != ".png":
        yield Key("files.suffix", rule.suffix, f"{len(found.train)} files are named id + suffix")
    if images.slice_pattern:
        reason = "files of one folder, named by numbers, are taken for slices; the middle one is the image"
        yield Key("files.slice_pattern", images.slice_pattern, reason, False)
    if pages > 1:
        yield Key("files.frame", pages // 2, f"each file has {pages} pages, or colours: the middle one?", False)
    yield from _shared_key(missing, found)


def _label_keys(sources: Sources) -> Iterator[Key]:
    others = f"; others that could be it: {listed(sources.others)}" if sources.others else ""
    if sources.labels:
        reason = f"ids and RLE texts ('{sources.layout.columns.rle}'){others}"
        yield Key("files.train_csv", sources.labels.name, reason, not sources.others)
    elif sources.outlines:
        reason = f"outlines of objects, with ids of images{others}"
        yield Key(f"files.{sources.outlines.kind}", sources.outlines.name, reason, not sources.others)
    else:
        rule = sources.masks.rule
        yield Key("files.train_masks", rule.folder or ".", f"{sources.masks.count} mask images{others}", not others)
        if sources.masks.classes:
            reason = "each class has files of its own: masks of the same images that show different things"
            yield Key("files.mask_paths", dict(sources.masks.classes.paths), reason, False)
        elif rule.pattern is not None:
            yield Key("files.mask_pattern", rule.pattern, f"{len(sources.masks.ids)} images have such a mask")
        elif rule.suffix != ".png":
            yield Key("files.mask_suffix", rule.suffix, f"{len(sources.masks.ids)} masks are named id + suffix")


def _repeated(found: Parts) -> str:
    """What to do if several files are the image of one id; "" if none are."""
    repeated = [(image_id, paths) for image_id, paths in found.train.items() if len(paths) > 1]
    if not repeated or found.images.slice_pattern:
        return ""
    image_id, paths = repeated[0]
    files = " and ".join(shortened(path, 60) for path in paths[:2])
    return (
        f", but {len(repeated)} ids have several: {files} are both '{shortened(image_id, 30)}'. Correct the pattern, "
        "or name the files of an id as files.channels"
    )


def _num_pages(found: Parts) -> int:
    """The pages, or channels, of an image file; 0 if it cannot be read."""
    try:
        return read_pixels(found.root / next(iter(found.train.values()))[0]).shape[2]
    except (ImageError, OSError, StopIteration):
        return 0


def _shared_key(missing: Sequence[str], found: Parts) -> Iterator[Key]:
    """Ids without images that may have those of another volume, whose slices have the same numbers."""
    if not missing:
        return
    (volume, numbers), *others = _numbers_by_volume(missing).items()
    fitting = [other for other, its in _numbers_by_volume(found.train).items() if numbers <= its]
    if fitting and not others and volume:
        nearest = max(fitting, key=lambda other: _equal_start(volume, other))
        reason = f"{len(missing)} ids have no image; those of '{nearest}' have the same numbers"
        yield Key("files.shared_images", {volume: nearest}, reason, False)
    else:
        reason = f"{len(missing)} ids have no image, such as '{shortened(missing[0])}': get the files, or --skip-bad"
        yield Key("files.shared_images", None, reason, False)


def _equal_start(one: str, other: str) -> int:
    """How many letters two texts have in common at their start."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _numbers_by_volume(ids: Iterable[str]) -> dict[str, set[str]]:
    """What is after the last "_" of ids, by what is before it."""
    volumes: dict[str, set[str]] = {}
    for image_id in ids:
        volume, _, number = image_id.rpartition("_")
        volumes.setdefault(volume, set()).add(number)
    return volumes


def images_without_rows(sources: Sources, found: Parts, *, exclusive: bool) -> Iterator[Key]:
    """What training images without a label are.

    Args:
        exclusive: each pixel has a class, so that no mask is empty.
    """
    labelled = set(sources.ids)
    without = [image_id for image_id in found.train if image_id not in labelled]
    if not without or (found.has_volumes and not sources.masks):  # ids of a table are of slices
        return
    what = f"{len(without)} of {len(found.train)} training images have no label, such as '{shortened(without[0], 40)}'"
    if set(without) & set(sources.test_ids):
        yield Key("images_without_rows", "ignore", f"{what}: test images in the same folder", False)
    elif sources.outlines and set(without) & {*sources.outlines.elsewhere, *map(stem_of, sources.outlines.elsewhere)}:
        yield Key("images_without_rows", "ignore", f"{what}: they are in the JSON of a held-out part", False)
    elif sources.masks and not exclusive and all(map(EMPTY_FOLDER.search, _folders_of(without, found))):
        yield Key("images_without_rows", "empty", f"{what}: their folder says that there is nothing to mask", False)
    elif sources.masks:
        question = "" if exclusive else ": or are their masks empty?"
        yield Key("images_without_rows", "ignore", f"{what}{question}", False)
    elif _has_empty(sources):
        yield Key("images_without_rows", "ignore", f"{what}, and images with empty masks have one", False)
    else:
        yield Key("images_without_rows", "empty", f"{what}, and no label is an empty mask", False)


def _folders_of(ids: Iterable[str], found: Parts) -> set[str]:
    """The last folder of the images of these ids."""
    return {path.rpartition("/")[0].rpartition("/")[2] for image_id in ids for path in found.train[image_id][:1]}


def _has_empty(sources: Sources) -> bool:
    if sources.outlines:
        return sources.outlines.has_empty
    texts = texts_by_image(sources.labels, sources.layout).values()
    return any(not any(len(text.split()) > 1 for text in each) for each in texts)
