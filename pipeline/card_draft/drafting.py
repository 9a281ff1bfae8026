"""From the files of a competition to a drafted card."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.card_draft.dialect import find_dialect
from pipeline.card_draft.draft import CardDraft, Key, joined
from pipeline.card_draft.grouping import find_group_column, find_patterns
from pipeline.card_draft.image_folders import Images, Rule, find_images, folders_of
from pipeline.card_draft.listing import Listing, spread
from pipeline.card_draft.mask_codes import MaskCodes, read_codes
from pipeline.card_draft.sources import Sources, find_sources, rows_per_mask, texts_by_image
from pipeline.card_draft.tables import Table, find_meta, form_of
from pipeline.competition import Columns, Competition, canonical_metric
from pipeline.data.formats import is_dicom, read_header, read_pixels
from pipeline.data.rasters import ImageError
from pipeline.metrics import metric_kind, metric_names, parse_metric
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect
from pipeline.schema import parse

NUM_HEADERS = 100  # of images of each part
NUM_PIXELS = 3  # images that are decoded for their channels
MAX_PIXELS = 1 << 24
DEFAULT_FOLDS = 5
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
CLASS_TABLE = {"name", "r", "g", "b"}  # columns of a table of colours


def draft_card(listing: Listing, name: str, metric: str = "", table: str = "") -> CardDraft:
    """The card of the files of a folder.

    Args:
        name: of the competition.
        metric: its name, or name and parameters as in mean_f_beta(beta=2); empty: mean_dice, or the first that fits.
        table: path of the training table; empty: find it.

    Raises:
        ValueError: if there are no images or labels, several candidates for the training table, or a metric that does
            not fit.
    """
    given = _check_metric(metric)
    of_objects = bool(given) and metric_kind(given) in ("objects", "ranked objects")
    sources = find_sources(listing, of_objects=of_objects, chosen=table)
    found = _find_train(listing, sources)
    packed = _packed_form(sources)
    classes, codes = _find_classes(listing, sources, name, of_objects=of_objects)
    measured = _measure(listing.root, found)
    keys = joined(
        [
            [Key("name", name, "the name given"), Key("title", _title(name), "the name given")],
            classes,
            _row_keys(sources, given, packed, codes),
            [_metric_key(given, packed)],
            _images_without_rows(sources, found),
            _file_keys(sources, found),
            _column_keys(sources, packed, classes),
            _group_keys(sources, measured),
            _mask_keys(codes, classes),
            _dialect_keys(listing, sources, found, packed),
        ]
    )
    draft = CardDraft(_with_folds(keys, sources), (*_facts(sources, found), *measured.facts))
    _check_card(draft, given)
    return draft


def _check_metric(metric: str) -> str:
    """The canonical text of a metric; empty if none is given.

    Raises:
        ValueError: for an unknown name, or parameters that it does not take.
    """
    if not metric.strip():
        return ""
    name, parameters = parse_metric(metric.strip())
    try:
        return canonical_metric({"name": name, **parameters})
    except ValueError as error:
        raise ValueError(f"METRIC={shortened(metric)}: {error}") from None


def _check_card(draft: CardDraft, metric: str) -> None:
    """Refuse a draft that is no valid card: a metric that does not fit the files.

    Raises:
        ValueError: with the reason of the card's own check.
    """
    parse(Competition, draft.tables(), f"METRIC={metric}" if metric else "the drafted card")


def _title(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").strip().capitalize() or name


# ---------------------------------------------------------------------------------------------- images


class Found(NamedTuple):
    """The files of the training and test images.

    Args:
        train: paths by id; masks are left out.
        test: likewise.
        test_folder: and whether files show it.
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
        return self.images.rule


def _find_train(listing: Listing, sources: Sources) -> Found:
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
    masks = (
        {path for paths in sources.masks.rule.files(listing.images).values() for path in paths}
        if sources.masks
        else set()
    )
    rest = [path for path in listing.images if path not in masks]
    folder, rule, evidence, is_sure = _test_folder(images.rule, rest, sources, listing)
    images = images._replace(rule=rule)
    train = rule.files(rest)
    return Found(images, train, rule.at(folder).files(rest), folder, evidence, is_sure, listing.root)


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
    for each in filter(None, (rule, _of_both_parts(rule))):
        held_out = {
            name: count
            for name, count in folders_of(each, paths).items()
            if name != rule.folder and "test" in name.lower()
        }
        if held_out:
            folder = max(held_out, key=lambda name: held_out[name])
            return folder, each, f"{held_out[folder]} files; no id of a sample submission is there", False
    guess = re.sub("train(ing)?", "test", rule.folder) if "train" in rule.folder else "test"
    there = "an empty folder" if guess in listing.folders else "no such folder"
    return guess, rule, f"no test images in the files: {there}", False


def _of_both_parts(rule: Rule) -> Rule | None:
    """A rule with the word for the training part replaced by one for either part: 21_training.tif, 01_test.tif."""
    text = rf"([^/]+){re.escape(rule.suffix)}" if rule.pattern is None else rule.pattern
    both, count = re.subn(r"train(ing)?", "(?:training|train|testing|test)", text)
    return Rule(rule.folder, "", both) if count else None


def _file_keys(sources: Sources, found: Found) -> Iterator[Key]:
    """The keys of [files]."""
    rule, images = found.rule, found.images
    missing = [image_id for image_id in sources.ids if image_id not in found.train]
    others = f"; other files of the same ids: {listed(images.others)}" if images.others else ""
    evidence = f"{len(sources.ids) - len(missing)} of {len(sources.ids)} ids of {sources.label_file}{others}"
    yield Key("files.train_images", rule.folder or ".", evidence, not images.others)
    yield Key("files.test_images", found.test_folder or ".", found.test_evidence, found.is_test_sure)
    yield from _label_keys(sources)
    if sources.sample is None:
        reason = "no sample submission in the files: its columns are a guess, get it from the competition's page"
        yield Key("files.sample_submission", "sample_submission.csv", reason, False)
    elif sources.sample.name != "sample_submission.csv":
        yield Key("files.sample_submission", sources.sample.name, f"its name, {len(sources.sample.cells)} rows")
    if images.channels:
        reason = f"{len(images.channels)} files for each id: the order of the channels is alphabetical"
        if images.channel_path:
            yield Key("files.channel_path", images.channel_path, reason)
        yield Key("files.channels", list(images.channels), reason)
    elif rule.pattern is not None:
        yield Key("files.pattern", rule.pattern, f"{len(found.train)} training and {len(found.test)} test files")
    elif rule.suffix != ".png":
        yield Key("files.suffix", rule.suffix, f"{len(found.train)} files are named id + suffix")
    if images.slice_pattern:
        reason = "files of one folder, named by numbers, are taken for slices; the middle one is the image"
        yield Key("files.slice_pattern", images.slice_pattern, reason, False)
    yield from _frame_key(found)
    yield from _shared_key(missing, found)


def _label_keys(sources: Sources) -> Iterator[Key]:
    others = f"; others that could be it: {listed(sources.others)}" if sources.others else ""
    if sources.labels:
        reason = f"ids and RLE texts ('{sources.layout.columns.rle}'){others}"
        yield Key("files.train_csv", sources.labels.name, reason, not sources.others)
    elif sources.outlines:
        yield Key(f"files.{sources.outlines.kind}", sources.outlines.name, "outlines of objects, with ids of images")
    else:
        rule = sources.masks.rule
        yield Key("files.train_masks", rule.folder or ".", f"{sources.masks.count} mask images{others}", not others)
        if rule.pattern is not None:
            yield Key("files.mask_pattern", rule.pattern, f"{len(sources.masks.ids)} images have such a mask")
        elif rule.suffix != ".png":
            yield Key("files.mask_suffix", rule.suffix, f"{len(sources.masks.ids)} masks are named id + suffix")


def _frame_key(found: Found) -> Iterator[Key]:
    """The page that the labels are of, if each channel's file has several."""
    if not found.images.channels:
        return
    try:
        pages = read_pixels(found.root / next(iter(found.train.values()))[0]).shape[2]
    except (ImageError, OSError, StopIteration):
        return
    if pages > 1:
        yield Key("files.frame", pages // 2, f"each file has {pages} pages: the middle one is a guess", False)


def _shared_key(missing: Sequence[str], found: Found) -> Iterator[Key]:
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


# ---------------------------------------------------------------------------------------------- rows and classes


def _find_classes(
    listing: Listing, sources: Sources, name: str, *, of_objects: bool
) -> tuple[list[Key], MaskCodes | None]:
    """The keys of the classes, and what the values of mask images are."""
    names = _class_names(sources)
    codes = None
    if sources.masks:
        files = sources.masks.rule.files(listing.images).values()
        paths = [listing.root / path for group in files for path in group]
        codes = read_codes(paths, of_objects=of_objects, num_classes=len(names) if names else None)
    keys = list(_classes_of_codes(codes, names, sources.tables)) if codes and codes.kind == "classes" else []
    if keys:
        return keys, codes
    if names:
        sure = sources.outlines is None or len(sources.outlines.classes) == len(names)
        reason = "of the tables" if sources.outlines is None else _describe_outlines(sources)
        return [Key("classes", list(names), reason, sure)], codes
    guess, reason = _class_in_name(name)
    return [Key("classes", [guess], reason, False)], codes


def _class_names(sources: Sources) -> tuple[str, ...]:
    """The classes that tables or outlines name, or ()."""
    for layout in (sources.sample_layout, sources.layout):
        if layout and layout.classes != ("",):
            return layout.classes
    if sources.outlines:
        names = tuple(name for name, _ in sources.outlines.classes)
        is_single = sources.sample_layout is not None
        return names[:1] if is_single or sources.outlines.kind == "train_polygons" else names
    return ()


def _describe_outlines(sources: Sources) -> str:
    counts = ", ".join(f"{shortened(name, 30)}: {count}" for name, count in sources.outlines.classes[:6])
    return f"objects in {sources.outlines.name}: {counts}; others are left out"


def _classes_of_codes(codes: MaskCodes, names: Sequence[str], tables: Sequence[Table]) -> Iterator[Key]:
    """Classes of mask images with a value each; the value of each class is a guess unless a table tells it."""
    values = list(codes.values)
    colours = _colour_names(tables)
    if colours and set(values) <= set(colours):
        named = {colours[value]: value for value in colours}
        reason, sure = f"a table of names and colours; {codes.evidence}", True
    elif len(names) == len(values):
        named = dict(zip(names, values, strict=True))
        reason, sure = f"in the order of the sample submission; {codes.evidence}", False
    elif len(names) == len(values) - 1 and values[0] in (0, (0, 0, 0)):
        named = dict(zip(names, values[1:], strict=True))
        reason, sure = f"0 is taken for the background; {codes.evidence}", False
    else:
        named = {f"class {_shown_value(value)}": value for value in values}
        reason, sure = f"no file names the classes; {codes.evidence}", False
    yield Key("classes", list(named), reason, sure)
    if len(named) > 1 and len(named) == len(values):
        yield Key("exclusive", True, f"each pixel of a mask image has one value; {codes.evidence}")
    listed_values = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    yield Key("masks.values", listed_values, reason, sure)


def _shown_value(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _colour_names(tables: Sequence[Table]) -> dict[tuple[int, ...], str]:
    """The name of each colour, from a table with the columns name, r, g and b."""
    for table in tables:
        columns = {column.lower(): column for column in table.columns}
        if set(columns) >= CLASS_TABLE:
            rows = zip(*(table.values(columns[key]) for key in ("r", "g", "b", "name")), strict=True)
            return {tuple(map(int, row[:3])): row[3] for row in rows if all(part.isdecimal() for part in row[:3])}
    return {}


def _class_in_name(name: str) -> tuple[str, str]:
    """The word before "segmentation" or "detection" in the competition's name."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    place = next((number for number, word in enumerate(words) if TASK.fullmatch(word)), 0)
    found = next((word for word in reversed(words[:place]) if word not in GENERIC), None)
    if found:
        return found, "one class; no file names it: a word of the competition's name"
    return "object", "one class; no file names it"


def _row_keys(sources: Sources, metric: str, packed: str | None, codes: MaskCodes | None) -> Iterator[Key]:
    """Whether a row, or mask file, is an image's, an object's, or a part's."""
    of_objects = bool(packed) or (bool(metric) and metric_kind(metric) in ("objects", "ranked objects"))
    rows = rows_per_mask(sources.labels, sources.layout) if sources.labels else 1
    if sources.masks and codes and codes.kind != "objects":
        rows = -(-sources.masks.count // max(1, len(sources.masks.ids)))
    what = "mask files" if sources.masks else "rows"
    if of_objects:
        reason = (
            f"the metric {metric} is of objects" if metric else "the sample's cells hold a confidence for each object"
        )
        repeated = rows > 1 or sources.outlines or (codes and codes.kind == "objects")
        yield Key(
            "instances",
            True,
            reason if repeated else f"{reason}, but each image has one row: is each an object?",
            bool(repeated),
        )
    elif rows > 1:
        yield Key(
            "several_rows",
            True,
            f"up to {rows} {what} for one image and class: parts of a mask? If each is an annotator's: annotators",
            bool(metric) and not _overlap(sources),
        )
        if not metric:
            example = metric_names("objects", complete=True)[0]
            reason = (
                f"if each of the {what} is an object: instances = true, and a metric of objects, as METRIC={example}"
            )
            yield Key("instances", None, reason, False)


def _overlap(sources: Sources) -> bool:
    """Whether rows of one image share their first run: the masks of several annotators of the same object."""
    if not sources.labels:
        return False
    texts = texts_by_image(sources.labels, sources.layout).values()
    starts = [[text.split()[0] for text in each if len(text.split()) > 1] for each in texts]
    return any(len(set(each)) < len(each) for each in starts)


def _metric_key(metric: str, packed: str | None) -> Key:
    if metric:
        name, parameters = parse_metric(metric)
        is_preset = metric in metric_names() and metric != name
        value = metric if is_preset or not parameters else {"name": name, **parameters}
        return Key("metric", value, "the metric given")
    name = metric_names("ranked objects", complete=True)[0] if packed else "mean_dice"
    return Key(
        "metric", name, f"no file shows the metric: read the evaluation page, and give it as METRIC={name}", False
    )


def _images_without_rows(sources: Sources, found: Found) -> Iterator[Key]:
    """What training images without a label are."""
    labelled = set(sources.ids)
    without = [image_id for image_id in found.train if image_id not in labelled]
    if not without or any(path.lower().endswith((".nii", ".nii.gz")) for each in found.train.values() for path in each):
        return
    what = f"{len(without)} of {len(found.train)} training images have no label, such as '{shortened(without[0], 40)}'"
    if set(without) & set(sources.test_ids):
        yield Key("images_without_rows", "ignore", f"{what}: test images in the same folder", False)
    elif sources.masks or _has_empty(sources):
        yield Key("images_without_rows", "ignore", f"{what}, and images with empty masks have one", False)
    else:
        yield Key("images_without_rows", "empty", f"{what}, and no label is an empty mask", False)


def _has_empty(sources: Sources) -> bool:
    if sources.outlines:
        return sources.outlines.has_empty
    texts = texts_by_image(sources.labels, sources.layout).values()
    return any(not any(len(text.split()) > 1 for text in each) for each in texts)


# ---------------------------------------------------------------------------------------------- columns


def _packed_form(sources: Sources) -> str | None:
    """The form of one object, if all objects of an image share a cell of the sample: class, confidence and mask."""
    if not sources.sample or not len(sources.sample.cells):
        return None
    words = sources.sample.cells[sources.sample_layout.columns.rle].iloc[0].split()
    masks = [word for word in words if len(word) > 8 and form_of(word) == "coco"]
    if not masks or len(words) < 2:
        return None
    one = words[: words.index(masks[0]) + 1]
    shown = ["{mask}" if word in masks else "{confidence}" if "." in word else word for word in one]
    return " ".join(shown) if shown.count("{confidence}") == 1 else None


def _column_keys(sources: Sources, packed: str | None, classes: Sequence[Key]) -> Iterator[Key]:
    """The keys of [columns], [[train_columns]] and of the meta table."""
    several = len(classes[0].value) > 1
    if sources.sample:
        columns, name, sure = sources.sample_layout.columns, sources.sample.name, True
    elif sources.layout:
        columns, name, sure = sources.layout.columns, f"{sources.labels.name}, as there is no sample submission", False
    else:
        columns, name, sure = Columns(id="id", rle="rle"), "a guess, as there is no sample submission", False
    yield Key("columns.id", columns.id, f"of {name}", sure)
    yield Key("columns.rle", columns.rle, f"of {name}", sure)
    if columns.label:
        yield Key("columns.class", columns.label, f"of {name}: {listed(classes[0].value, 60)}", sure)
    elif columns.id_separator:
        example = sources.sample.cells[columns.id].iloc[0] if sources.sample and len(sources.sample.cells) else ""
        yield Key(
            "columns.id_separator",
            columns.id_separator,
            f"ids of {name} hold a class, as '{shortened(example, 40)}'",
            sure,
        )
    elif several:
        yield Key("columns.class", "class", "several classes, but no column of a class was seen", False)
    if sources.sample and (copied := [each for each in sources.sample.columns if each not in columns.header]):
        yield Key("columns.copied", copied, f"further columns of {name}")
    if packed:
        yield Key("columns.packed_objects", packed, f"the cells of {name}")
    if sources.sample and sources.layout and (own := _row_columns(sources.layout.columns)) != _row_columns(columns):
        yield from (Key(f"train_columns.{key}", value, f"of {sources.labels.name}") for key, value in own.items())
    yield from _meta_keys(sources, columns)


def _row_columns(columns: Columns) -> dict[str, str]:
    keys = {"id": columns.id, "rle": columns.rle, "class": columns.label, "id_separator": columns.id_separator}
    return {key: value for key, value in keys.items() if value is not None}


def _meta_tables(sources: Sources) -> list[tuple[Table, str]]:
    """Tables with one row for each training image and further columns, and their columns of ids."""
    used = [table for table in (sources.sample, sources.labels) if table]
    found = list(find_meta(sources.tables, used, sources.ids))
    labels, layout = sources.labels, sources.layout
    if labels and not layout.columns.id_separator and labels.cells[layout.columns.id].is_unique:
        more = [name for name in labels.columns if name not in layout.columns.header]
        found += [(labels, layout.columns.id)] if more else []
    return found


def _meta_keys(sources: Sources, columns: Columns) -> Iterator[Key]:
    if found := _meta_tables(sources):
        (table, id_column), *others = found
        more = f"; another: {others[0][0].name}" if others else ""
        yield Key("files.train_meta", table.name, f"a row for each training image: {listed(table.columns, 80)}{more}")
        if id_column != columns.id:
            yield Key("columns.meta_id", id_column, f"the column of ids of {table.name}")


# ---------------------------------------------------------------------------------------------- groups


class Measured(NamedTuple):
    """What some images are."""

    one_channel: bool
    medical: bool
    facts: tuple[tuple[str, str], ...]


def _group_keys(sources: Sources, measured: Measured) -> Iterator[Key]:
    """Groups and volumes, which are proposals."""
    tables = _meta_tables(sources)[:1]
    if sources.labels and not sources.layout.columns.id_separator:
        tables = [(sources.labels, sources.layout.columns.id), *tables]
    column = find_group_column(tables, sources.ids)
    patterns = find_patterns(sources.ids, sources.test_ids, one_channel=measured.one_channel, medical=measured.medical)
    if column:
        yield Key("columns.group", column[0], f"proposed: {column[1]}", False)
    elif patterns.group_pattern:
        yield Key("group_pattern", patterns.group_pattern, f"proposed: {patterns.evidence}", False)
    if patterns.volume_pattern:
        yield Key("volume_pattern", patterns.volume_pattern, f"proposed: {patterns.evidence}", False)


def _with_folds(keys: tuple[Key, ...], sources: Sources) -> tuple[Key, ...]:
    """The keys, with a number of folds where there are fewer groups, or images, than the default has folds."""
    by_name = {key.name: key.value for key in keys}
    groups: set[str] = set(sources.ids)
    if pattern := by_name.get("group_pattern") or by_name.get("volume_pattern"):
        groups = {found[1] for image_id in sources.ids if (found := re.match(pattern, image_id))}
    if column := by_name.get("columns.group"):
        tables = [table for table in sources.tables if column in table.columns]
        groups = set(tables[0].values(column)) if tables else groups
    count = len(groups)
    if not 2 <= count < DEFAULT_FOLDS:
        return keys
    place = next((number for number, key in enumerate(keys) if "." in key.name), len(keys))
    return (*keys[:place], Key("folds", count, f"there are {count} groups, or images"), *keys[place:])


# ---------------------------------------------------------------------------------------------- masks and dialect


def _mask_keys(codes: MaskCodes | None, classes: Sequence[Key]) -> Iterator[Key]:
    if codes is None or codes.kind == "binary":
        return
    if codes.kind == "above":
        yield Key("masks.above", 127, codes.evidence, False)
    elif codes.kind == "value":
        value = list(codes.values[0]) if isinstance(codes.values[0], tuple) else codes.values[0]
        yield Key("masks.values", {classes[0].value[0]: value}, codes.evidence, False)
    elif codes.kind == "objects":
        yield from _object_keys(codes)
    elif codes.kind == "soft":
        yield Key("masks.soft", True, codes.evidence, False)
    elif codes.kind == "unknown":
        yield Key("masks.values", None, codes.evidence, False)
    if codes.void is not None:
        void = list(codes.void) if isinstance(codes.void, tuple) else codes.void
        yield Key("masks.void", void, f"a value beyond those of the classes; {codes.evidence}", False)


def _object_keys(codes: MaskCodes) -> Iterator[Key]:
    if codes.is_sure:
        yield Key("masks.objects", True, codes.evidence)
    else:
        reason = f"{codes.evidence}: all but 0 is mask; with a metric of objects: objects = true"
        yield Key("masks.above", 0, reason, False)


def _dialect_keys(listing: Listing, sources: Sources, found: Found, packed: str | None) -> Iterator[Key]:
    """The keys of [dialect] that differ from the default or are not certain."""
    placeholders = list(sources.sample.cells[sources.sample_layout.columns.rle]) if sources.sample else []
    if packed:
        yield Key("dialect.form", "coco", "the cells of the sample submission: base64 of COCO's counts")
        return
    texts = texts_by_image(sources.labels, sources.layout) if sources.labels else {}
    paths = {image_id: listing.root / each[0] for image_id, each in found.train.items() if image_id in texts}
    if found.images.channels:
        paths = {}
    result = find_dialect(texts, paths, placeholders)
    dialect, default = result.dialect, Dialect()
    if dialect.order != default.order or not result.is_sure:
        yield Key("dialect.order", dialect.order, result.evidence, result.is_sure)
    for key in ("base", "relative", "form"):
        if (value := getattr(dialect, key)) != getattr(default, key):
            yield Key(f"dialect.{key}", value, result.evidence, result.is_sure)
    if dialect.empty or not result.is_empty_sure:
        yield Key("dialect.empty", dialect.empty, result.empty_evidence, result.is_empty_sure)


# ---------------------------------------------------------------------------------------------- facts


def _facts(sources: Sources, found: Found) -> Iterator[tuple[str, str]]:
    if sources.labels:
        rows = len(sources.labels.cells)
        yield "training table", f"{sources.labels.name}: {rows} rows of {len(sources.ids)} images"
    elif sources.outlines:
        yield "outlines", f"{sources.outlines.name}: {len(sources.ids)} images"
    else:
        yield "mask images", f"{sources.masks.count} of {len(sources.ids)} images"
    if sources.sample:
        yield (
            "sample submission",
            f"{sources.sample.name}: {len(sources.sample.cells)} rows of {len(sources.test_ids)} images",
        )
    used = [sources.sample, sources.labels, *(table for table, _ in _meta_tables(sources)[:1])]
    others = [table.name for table in sources.tables if table not in used]
    if others:
        yield "not used", listed(others)
    yield "images", f"{len(found.train)} training, {len(found.test)} test, named {_describe_rule(found)}"


def _describe_rule(found: Found) -> str:
    rule = found.rule
    return f"id + '{rule.suffix}'" if rule.pattern is None else f"by the pattern {shortened(rule.pattern)}"


def _measure(root: Path, found: Found) -> Measured:
    """Sizes of some images, from their headers, and the channels of a few."""
    paths = [
        root / each[0]
        for each in [*spread(list(found.train.values()), NUM_HEADERS), *spread(list(found.test.values()), NUM_HEADERS)]
    ]
    headers = []
    for path in paths:
        try:
            headers.append(read_header(path))
        except (ImageError, OSError):
            continue
    sizes = Counter((header.height, header.width) for header in headers)
    small = [path for path, header in zip(paths, headers, strict=False) if header.height * header.width <= MAX_PIXELS]
    pictures = [pixels for path in spread(small, NUM_PIXELS) if (pixels := _pixels(path)) is not None]
    grey = bool(pictures) and all((each == each[..., :1]).all() for each in pictures)
    channels = sorted({each.shape[2] for each in pictures})
    medical = bool(paths) and _is_medical(paths[0])
    shown = ", ".join(f"{height}×{width}" for (height, width), _ in sizes.most_common(3))
    facts = [("sizes", f"{shown}{' …' if len(sizes) > 3 else ''} (height×width, of {len(headers)} images)")]
    if pictures:
        dtypes = ", ".join(sorted({str(each.dtype) for each in pictures}))
        low, high = min(float(each.min()) for each in pictures), max(float(each.max()) for each in pictures)
        equal = ", all equal" if grey and channels[-1] > 1 else ""
        facts.append(("pixels", f"{'/'.join(map(str, channels))} channels{equal}, {dtypes}, {low:g} to {high:g}"))
    return Measured(channels == [1], medical, tuple(facts))


def _pixels(path: Path) -> np.ndarray | None:
    try:
        return read_pixels(path)
    except (ImageError, OSError):
        return None


def _is_medical(path: Path) -> bool:
    try:
        return is_dicom(path)
    except (ImageError, OSError):
        return False
