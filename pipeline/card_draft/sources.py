"""Which file holds the labels of the training images: a table, outlines in JSON, or mask images."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pipeline.card_draft.annotations import Annotations, find_annotations
from pipeline.card_draft.class_masks import with_classes
from pipeline.card_draft.listing import IMAGES, Listing, spread, stem_of
from pipeline.card_draft.mask_folders import MaskImages, find_candidates, find_mask_images
from pipeline.card_draft.other_labels import describe_binary, find_other_labels
from pipeline.card_draft.tables import (
    MIN_KNOWN,
    RowLayout,
    Table,
    classes_with_masks,
    describe_tables,
    find_labels,
    find_sample,
    image_ids,
    is_empty_text,
    known_texts,
    labels_layout,
    labels_of,
    read_tables,
    sample_layout,
    share_known,
    without_classes,
)
from pipeline.card_draft.templates import are_in_pieces
from pipeline.quoting import listed, shortened

MAX_TABLES_TEXT = 140  # characters of a message about the tables that are there
MAX_EXAMPLE = 40  # characters of a path in a message


class Sources(NamedTuple):
    """The tables of a competition, and its labels: a table, outlines, or mask images.

    Args:
        ids: of the training images with labels, each once.
        layout: of the training table.
        others: files that could hold the labels too.
        parts: tables of masks beside the images, one for each of them, which show the dialect.
        merged: the column of classes of the training table, if the sample submission has one mask for each image, or if
            rows of one class alone have masks.
    """

    tables: list[Table]
    sample: Table | None
    sample_layout: RowLayout | None
    ids: list[str]
    labels: Table | None = None
    layout: RowLayout | None = None
    outlines: Annotations | None = None
    masks: MaskImages | None = None
    others: tuple[str, ...] = ()
    parts: tuple[Table, ...] = ()
    merged: str | None = None

    @property
    def test_ids(self) -> list[str]:
        """The images of the sample submission, each once."""
        if self.sample is None:
            return []
        return list(dict.fromkeys(image_ids(self.sample, self.sample_layout)))

    @property
    def label_file(self) -> str:
        """The file or folder of the labels, for people."""
        if self.labels:
            return self.labels.name
        return self.outlines.name if self.outlines else self.masks.rule.folder or "the data folder"


def find_sources(listing: Listing, *, of_objects: bool, chosen: str) -> Sources:
    """Find the labels and the sample submission.

    Args:
        of_objects: the metric is one of objects, so each row is one.
        chosen: path of the training table below the data folder; empty: find it.

    Raises:
        ValueError: if there are no labels, or several files that could hold them, with their names.
    """
    if not listing.images:
        raise ValueError(f"{listing.root}: no image{_instead_of_images(listing)}")
    tables, faults = read_tables(listing)
    known = _known_ids_of(tables, listing.images)
    sample = find_sample(tables)
    of_sample = sample_layout(sample, known) if sample else None
    candidates = find_labels(tables, sample)
    parts = _of_single_images(candidates)
    whole = [table for table in candidates if table not in parts]
    labels, others = _choose_table(whole, known, of_objects=of_objects, chosen=chosen)
    if labels:
        layout = labels_layout(labels, known, of_sample.columns if of_sample else None)
        is_one = _has_no_class(sample, of_sample) if sample else _has_one_filled(labels, layout)
        merged = layout.columns.label if is_one else None
        layout = without_classes(layout) if merged else layout
        ids = list(dict.fromkeys(image_ids(labels, layout)))
        return Sources(tables, sample, of_sample, ids, labels, layout, others=others, merged=merged)
    outlines, others = _choose_outlines(find_annotations(listing.root, listing.jsons))
    if outlines:
        ids = list(outlines.images if _have_suffix(sample, of_sample) else map(stem_of, outlines.images))
        return Sources(tables, sample, of_sample, list(dict.fromkeys(ids)), outlines=outlines, others=others)
    if masks := find_mask_images(listing.root, listing.images):
        if not of_objects:
            masks = with_classes(listing.root, masks, listing.images, of_sample.classes if of_sample else None)
        return Sources(tables, sample, of_sample, masks.ids, masks=masks, others=masks.others, parts=tuple(parts))
    if groups := find_candidates(listing.root, listing.images):
        masks = {path for group in groups.values() for path in group}
        images = [shortened(path, MAX_EXAMPLE) for path in listing.images if path not in masks]
        first, such_as = shortened(min(masks), MAX_EXAMPLE), " and ".join(spread(images, 2))
        raise ValueError(
            f"{listing.root}: {len(masks)} files look like masks, such as {first}, but names do not show their images, "
            f"such as {such_as}: name each mask as its image, or write the card by hand (docs/card.toml)"
        )
    raise ValueError(
        f"{listing.root}: {len(listing.images)} images, but no labels: {_without_labels(listing, tables, faults)}"
    )


def _without_labels(listing: Listing, tables: Sequence[Table], faults: Sequence[str]) -> str:
    """What is there in place of labels, and what to do."""
    if other := find_other_labels(listing, tables):
        return other
    unread = f" ({faults[0]})" if faults else ""
    there = shortened(f"{describe_tables(tables) or 'no CSV'}{unread}", MAX_TABLES_TEXT)
    return (
        f"no table with a column of RLE texts, no mask images, no outlines; there are {there}: put the training table "
        "or the masks there"
    )


def _has_no_class(sample: Table, layout: RowLayout) -> bool:
    """Whether a sample submission, which has rows, has one mask for each image."""
    return bool(len(sample.cells)) and layout.columns.label is None and layout.columns.id_separator is None


def _has_one_filled(labels: Table, layout: RowLayout) -> bool:
    """Whether of several classes one alone has masks, as 1 and 0 that say whether there is one."""
    return len(layout.classes) > 1 and len(classes_with_masks(labels, layout)) == 1


def _of_single_images(tables: Sequence[Table]) -> list[Table]:
    """Tables whose name is that of others in other folders."""
    names = Counter(PurePosixPath(table.name).name for table in tables)
    return [table for table in tables if names[PurePosixPath(table.name).name] > 1]


def _known_ids_of(tables: Sequence[Table], paths: Sequence[str]) -> set[str]:
    """Texts that are ids of images: names of files and folders, and ids that are spread over a path."""
    known = known_texts(paths)
    for table in tables:
        for name in table.columns:
            values = [] if name == table.mask_column else table.values(name)
            if values and share_known(values, known) < MIN_KNOWN and are_in_pieces(values, paths):
                known.update(values)
    return known


def _instead_of_images(listing: Listing) -> str:
    suffixes = Counter(PurePosixPath(path).suffix[1:] for path in listing.others)
    if advice := next(filter(None, (describe_binary(suffix) for suffix, _ in suffixes.most_common())), None):
        return f": {advice}"
    found = [f".{suffix}" if suffix else "no suffix (DICOM? name them .dcm)" for suffix, _ in suffixes.most_common(3)]
    return (
        f": there are files of {listed(found)}: give the folder that the images are in" if found else " in this folder"
    )


def _choose_table(
    candidates: Sequence[Table], known: Collection[str], *, of_objects: bool, chosen: str
) -> tuple[Table | None, tuple[str, ...]]:
    """The training table, and the names of the others that could be it.

    Raises:
        ValueError: if several fit equally well, or the chosen one is none.
    """
    if chosen:
        found = next((table for table in candidates if table.name == chosen), None)
        if found is None:
            names = listed(table.name for table in candidates) or "none"
            raise ValueError(f"TABLE={chosen}: not a table with ids and RLE texts; such tables are: {names}")
        return found, ()
    of_images = [table for table in candidates if _known_ids(table, known) >= MIN_KNOWN] or list(candidates)
    fitting = [table for table in of_images if _repeats_ids(table) == of_objects]
    best = fitting if len(of_images) > 1 and fitting else of_images
    best = _without_copies(best)
    if len(best) > 1:
        raise ValueError(
            f"{len(best)} tables could be the training table: {listed(table.name for table in best)}: name the one to "
            f"use, as in TABLE={best[0].name}"
        )
    others = tuple(table.name for table in of_images if table not in best)
    return (best[0] if best else None), others


def _without_copies(tables: list[Table]) -> list[Table]:
    """The table of fewest columns alone, if the others are that table with more columns, such as folds."""
    first = min(tables, key=lambda table: len(table.columns), default=None)
    others = [table for table in tables if table is not first]
    if all(set(first.columns) < set(each.columns) and _masks_of(each) == _masks_of(first) for each in others):
        return tables[:0] if first is None else [first]
    return tables


def _masks_of(table: Table) -> Counter[str]:
    """How often each text of a mask is in a table."""
    return Counter(text for text in table.values(table.mask_column) if not is_empty_text(text))


def _known_ids(table: Table, known: Collection[str]) -> float:
    """The largest share of the cells of a column that are ids of images, also joined with a class."""
    shares = [0.0]
    for name in table.columns:
        if name != table.mask_column:
            values = table.values(name)
            starts = [text.rpartition("_")[0] for text in values]
            shares += [share_known(values, known), share_known(starts, known)]
    return max(shares)


def _repeats_ids(table: Table) -> bool:
    """Whether rows repeat all their cells but the mask: a row for each object, or part."""
    return bool(table.cells.drop(columns=table.mask_column).duplicated().any())


def _choose_outlines(found: Sequence[Annotations]) -> tuple[Annotations | None, tuple[str, ...]]:
    """The file of outlines, and the names of those that have outlines of the same images, of fewer classes.

    Raises:
        ValueError: if several files are of other images.
    """
    train = [each for each in found if "train" in each.name.lower()]
    first, *others = sorted(
        train or found, key=lambda each: (-len(each.images), -len(each.classes), len(each.name), each.name)
    ) or [None]
    if any(not set(each.images) <= set(first.images) for each in others):
        names = listed(each.name for each in [first, *others])
        raise ValueError(f"{len(others) + 1} files of outlines: {names}: join them to one, or leave one in the folder")
    return first, tuple(each.name for each in others)


def _have_suffix(sample: Table | None, layout: RowLayout | None) -> bool:
    """Whether the ids of the sample submission end in an image's suffix."""
    ids = image_ids(sample, layout) if sample else []
    return bool(ids) and all(image_id.lower().endswith(IMAGES) for image_id in ids)


def texts_of(sources: Sources) -> dict[str, list[str]]:
    """The texts of the masks of each image, of the training table, or else of tables of single images."""
    if sources.labels:
        return texts_by_image(sources.labels, sources.layout)
    known, texts = set(sources.ids), dict[str, list[str]]()
    for table in sources.parts:
        texts |= texts_by_image(table, labels_layout(table, known, None))
    return texts


def texts_by_image(labels: Table, layout: RowLayout) -> dict[str, list[str]]:
    """The texts of the masks of each image, of all its rows."""
    texts: dict[str, list[str]] = {}
    for image_id, text in zip(image_ids(labels, layout), labels.cells[layout.columns.rle], strict=True):
        texts.setdefault(image_id, []).append(" ".join(text.split()))
    return texts


def rows_per_mask(labels: Table, layout: RowLayout) -> int:
    """The largest number of rows of one image and class."""
    return max(Counter(zip(image_ids(labels, layout), labels_of(labels, layout), strict=True)).values(), default=1)
