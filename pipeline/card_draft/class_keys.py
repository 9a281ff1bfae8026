"""The keys of a card's classes, and of the values of mask images."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.card_draft.class_names import ClassNames, find_class_names
from pipeline.card_draft.draft import Key
from pipeline.card_draft.listing import Listing
from pipeline.card_draft.mask_codes import MaskCodes, read_codes
from pipeline.card_draft.mask_folders import ClassFiles
from pipeline.card_draft.sources import Sources
from pipeline.card_draft.tables import classes_with_masks, in_order
from pipeline.quoting import listed, shortened

GENERIC = {
    "challenge",
    "competition",
    "segmentation",
    "instance",
    "semantic",
    "image",
    "images",
    "data",
    "dataset",
    "mini",
}
TASK = re.compile(r"segmentation|detection|identification|recognition|localization|masking")
VOID_NAME = re.compile(r"void|unlabell?ed|unknown|ignored?|no[ _-]?data", re.IGNORECASE)
BACKGROUND = re.compile(r"back[ _-]?ground|other|clutter|none", re.IGNORECASE)


def find_classes(
    listing: Listing, sources: Sources, name: str, *, of_objects: bool
) -> tuple[list[Key], MaskCodes | None]:
    """The keys of the classes, and what the values of mask images are."""
    if sources.masks and sources.masks.classes:
        return list(_classes_of_files(sources.masks.classes)), None
    names, files = _class_names(sources), list[ClassNames]()
    codes, exclusive = None, True
    if sources.masks:
        masks = sources.masks.rule.files(listing.images).values()
        paths = [listing.root / path for group in masks for path in group]
        codes = read_codes(paths, of_objects=of_objects, num_classes=len(names) if names else None)
        files = find_class_names(listing, sources.tables)
        codes = _with_named_void(codes, files)
        exclusive = all(len(group) == 1 for group in masks)  # else each file shows a part: 0 is no class, but the rest
        if codes.kind == "classes" and not exclusive:
            codes = codes._replace(values=tuple(value for value in codes.values if value not in (0, (0, 0, 0))))
        if codes.kind == "unknown" and len(names) > 1:
            raise ValueError(f"{listing.root}: mask images of {len(names)} classes: {codes.evidence}")
    if codes and codes.kind == "classes":
        return list(_classes_of_codes(codes, names, files, exclusive=exclusive)), codes
    if names:
        sure = sources.outlines is None or len(sources.outlines.classes) == len(names)
        reason = "of the tables" if sources.outlines is None else _describe_outlines(sources)
        if empty := _classes_without_masks(sources):
            reason = f"no row of {listed(empty, 60)} has a mask: if it stands for no mask, blank these cells"
        return [Key("classes", list(names), reason, sure and not empty)], codes
    if found := next(filter(None, map(_only_class, files)), None):
        return [Key("classes", [found], "the one class of a table of names and colours, beside the background")], codes
    guess, reason = _class_in_name(name)
    if sources.merged:
        why = f"as in {sources.sample.name}" if sources.sample else "as no other row has a mask"
        reason = f"one class, {why}: the classes in '{sources.merged}' are one mask"
    return [Key("classes", [guess], reason, False)], codes


def _classes_of_files(classes: ClassFiles) -> Iterator[Key]:
    """Classes whose masks are in files of their own, and the values of these."""
    yield Key("classes", list(classes.paths), "what the paths of mask images do not have in common", False)
    if classes.above is not None:
        reason = "JPEG blurs values" if classes.above else "masks have one value beside 0, which is not white in all"
        yield Key("masks.above", classes.above, reason, False)


def _class_names(sources: Sources) -> tuple[str, ...]:
    """The classes that tables or outlines name, or ()."""
    layouts = [layout for layout in (sources.sample_layout, sources.layout) if layout and layout.classes != ("",)]
    if layouts:  # a sample submission may have one class in all of its rows
        return in_order(dict.fromkeys(name for layout in layouts for name in layout.classes))
    if sources.outlines:
        names = tuple(name for name, _ in sources.outlines.classes)
        is_single = sources.sample_layout is not None
        return names[:1] if is_single or sources.outlines.kind == "train_polygons" else names
    return ()


def _classes_without_masks(sources: Sources) -> list[str]:
    """Classes of the training table alone, not of the sample submission, whose rows have no mask."""
    if not sources.labels:
        return []
    others = classes_with_masks(sources.labels, sources.layout)
    others |= set(sources.sample_layout.classes if sources.sample_layout else ())
    return [name for name in sources.layout.classes if name and name not in others]


def _describe_outlines(sources: Sources) -> str:
    counts = ", ".join(f"{shortened(name, 30)}: {count}" for name, count in sources.outlines.classes[:6])
    return f"objects in {sources.outlines.name}: {counts}; others are left out"


def _classes_of_codes(
    codes: MaskCodes, names: Sequence[str], files: Sequence[ClassNames], *, exclusive: bool
) -> Iterator[Key]:
    """Classes of mask images with a value each; the value of each class is a guess unless a file tells it.

    Args:
        exclusive: each image has one mask image, so each pixel one value.
    """
    values = list(codes.values)
    rows = next((list(each.by_value.values()) for each in files if _has_colours(each)), [])
    sure_files = [each for each in files if each.is_sure or not names]
    names = names or next((list(each.by_value.values()) for each in files if not each.is_sure), [])
    if found := next((each for each in sure_files if each.cover(values)), None):
        named = {name: value for value, name in found.by_value.items() if value != codes.void}
        places = "" if found.is_sure else ", by their places from 0"
        reason, sure = f"the names in {found.file}{places}; {codes.evidence}", found.is_sure
    elif len(names) == len(values):
        named = dict(zip(names, values, strict=True))
        reason, sure = f"names and values in their order; {codes.evidence}", False
    elif len(names) == len(values) - 1 and values[0] in (0, (0, 0, 0)):
        named = dict(zip(names, values[1:], strict=True))
        reason, sure = f"0 is taken for the background; {codes.evidence}", False
    elif all(isinstance(value, int) and value < len(rows) for value in values):
        named = {rows[value]: value for value in values}
        reason, sure = f"the rows of a table of names and colours, from 0; {codes.evidence}", False
    else:
        named = {f"class {_shown_value(value)}": value for value in values}
        reason, sure = f"no file names the classes; {codes.evidence}", False
    yield Key("classes", list(named), reason, sure)
    if exclusive and len(named) > 1 and set(values) <= set(named.values()):
        yield Key("exclusive", True, f"each pixel of a mask image has one value; {codes.evidence}")
    listed_values = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    yield Key("masks.values", listed_values, reason, sure)


def _shown_value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _has_colours(names: ClassNames) -> bool:
    return not any(isinstance(value, int) for value in names.by_value)


def _with_named_void(codes: MaskCodes, files: Sequence[ClassNames]) -> MaskCodes:
    """Codes without the value of a class whose name says that its pixels are ignored."""
    found = next((each for each in files if each.cover(codes.values)), None)
    if codes.kind != "classes" or codes.void is not None or found is None:
        return codes
    void = [value for value, name in found.by_value.items() if VOID_NAME.fullmatch(name)]
    if len(void) != 1:
        return codes
    evidence = f"'{found.by_value[void[0]]}' in {found.file}; {codes.evidence}"
    return codes._replace(
        values=tuple(each for each in codes.values if each != void[0]), void=void[0], evidence=evidence
    )


def _only_class(names: ClassNames) -> str | None:
    """The one class of a file of names that is neither the background nor black."""
    found = [
        name for value, name in names.by_value.items() if value not in (0, (0, 0, 0)) and not BACKGROUND.fullmatch(name)
    ]
    return found[0] if len(found) == 1 else None


def _class_in_name(name: str) -> tuple[str, str]:
    """The word before "segmentation" or "detection" in the competition's name."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    place = next((number for number, word in enumerate(words) if TASK.fullmatch(word)), 0)
    found = next((word for word in reversed(words[:place]) if word not in GENERIC), None)
    if found:
        return found, "one class; no file names it: a word of the competition's name"
    return "object", "one class; no file names it"


def mask_keys(codes: MaskCodes | None, classes: Sequence[Key]) -> Iterator[Key]:
    """The keys of [masks] that follow from the values of mask images; those of several classes are in `classes`.

    Args:
        codes: None if the labels are no mask images.
        classes: as `find_classes` returns them.
    """
    if codes is None or codes.kind == "binary":
        return
    if codes.kind == "above":
        yield Key("masks.above", 127, codes.evidence, False)
    elif codes.kind == "value":
        value = list(codes.values[0]) if isinstance(codes.values[0], tuple) else codes.values[0]
        yield Key("masks.values", {classes[0].value[0]: value}, codes.evidence, False)
        if codes.background not in (0, (0, 0, 0)):
            background = list(codes.background) if isinstance(codes.background, tuple) else codes.background
            yield Key("masks.background", background, f"the more frequent value; {codes.evidence}", False)
    elif codes.kind == "objects":
        yield from _object_keys(codes)
    elif codes.kind == "soft":
        yield Key("masks.soft", True, codes.evidence, False)
    elif codes.kind == "unknown":
        yield Key("masks.values", None, codes.evidence, False)
    if codes.void is not None:
        void = list(codes.void) if isinstance(codes.void, tuple) else codes.void
        reason = codes.evidence if isinstance(void, list) else f"a value beyond those of the classes; {codes.evidence}"
        yield Key("masks.void", void, reason, False)


def _object_keys(codes: MaskCodes) -> Iterator[Key]:
    if codes.is_sure:
        yield Key("masks.objects", True, codes.evidence)
    else:
        reason = f"{codes.evidence}: all but 0 is mask; with a metric of objects: objects = true"
        yield Key("masks.above", 0, reason, False)
