"""The keys of a card's columns, of its table of more columns, and of its groups."""

import re
from collections.abc import Iterator, Sequence

from pipeline.card_draft.draft import Key
from pipeline.card_draft.grouping import find_group_column, find_patterns
from pipeline.card_draft.parts import Measured
from pipeline.card_draft.sources import Sources
from pipeline.card_draft.tables import Table, find_meta
from pipeline.competition import Columns
from pipeline.quoting import listed, shortened

DEFAULT_FOLDS = 5


def column_keys(sources: Sources, packed: str | None, classes: Sequence[Key], *, has_volumes: bool) -> Iterator[Key]:
    """The keys of [columns], [[train_columns]] and of the meta table.

    Args:
        has_volumes: images are slices of volumes: a table with a row for each volume has none for them.
    """
    several = len(classes[0].value) > 1
    columns, origin, sure = _columns_of(sources)
    yield Key("columns.id", columns.id, origin, sure)
    yield Key("columns.rle", columns.rle, origin, sure)
    if columns.label:
        yield Key("columns.class", columns.label, f"{origin}: {listed(classes[0].value, 60)}", sure)
    elif columns.id_separator:
        example = sources.sample.cells[columns.id].iloc[0] if sources.sample and len(sources.sample.cells) else ""
        reason = f"ids hold a class, such as '{shortened(example, 40)}', {origin}"
        yield Key("columns.id_separator", columns.id_separator, reason, sure)
    elif several:
        yield Key("columns.class", "class", "several classes, but no column of a class was seen", False)
    if sources.sample and (copied := [each for each in sources.sample.columns if each not in columns.header]):
        yield Key("columns.copied", copied, f"further columns of {sources.sample.name}")
    if packed:
        yield Key("columns.packed_objects", packed, f"the cells of {sources.sample.name}")
    if sources.sample and sources.layout and (own := _row_columns(sources.layout.columns)) != _row_columns(columns):
        yield from (Key(f"train_columns.{key}", value, f"of {sources.labels.name}") for key, value in own.items())
    if not (sources.masks and has_volumes):
        yield from _meta_keys(sources, columns)


def _columns_of(sources: Sources) -> tuple[Columns, str, bool]:
    """The columns of the sample submission, the evidence, and whether they are certain."""
    if sources.sample:
        return sources.sample_layout.columns, f"of {sources.sample.name}", True
    if sources.layout:
        return sources.layout.columns, f"of {sources.labels.name}, as there is no sample submission", False
    return Columns(id="id", rle="rle"), "a guess, as there is no sample submission", False


def _row_columns(columns: Columns) -> dict[str, str]:
    keys = {"id": columns.id, "rle": columns.rle, "class": columns.label, "id_separator": columns.id_separator}
    return {key: value for key, value in keys.items() if value is not None}


def meta_tables(sources: Sources) -> list[tuple[Table, str]]:
    """Tables with one row for each training image and further columns, and their columns of ids."""
    used = [table for table in (sources.sample, sources.labels) if table]
    found = list(find_meta(sources.tables, used, sources.ids))
    labels, layout = sources.labels, sources.layout
    if labels and not layout.columns.id_separator and labels.cells[layout.columns.id].is_unique:
        more = [name for name in labels.columns if name not in layout.columns.header]
        found += [(labels, layout.columns.id)] if more else []
    return found


def _meta_keys(sources: Sources, columns: Columns) -> Iterator[Key]:
    if found := meta_tables(sources):
        (table, id_column), *others = found
        more = f"; another: {others[0][0].name}" if others else ""
        reason = f"a row for each training image: {listed(table.columns, 80)}{more}"
        yield Key("files.train_meta", table.name, reason, "meta" in table.name or "train" in table.name)
        if id_column != columns.id:
            yield Key("columns.meta_id", id_column, f"the column of ids of {table.name}")
        yield from _test_meta_keys(sources, table, id_column)


def _test_meta_keys(sources: Sources, train: Table, id_column: str) -> Iterator[Key]:
    """The first table with a row for each test image, and a further column that the training images' table has too."""
    used = [table for table in (sources.sample, sources.labels) if table]
    for table, name in find_meta(sources.tables, used, sources.test_ids) if sources.test_ids else ():
        shared = [column for column in table.columns if column in train.columns and column != name]
        if name == id_column and shared:
            reason = f"a row for each test image; columns of {train.name} too: {listed(shared, 80)}"
            yield Key("files.test_meta", table.name, reason, "meta" in table.name or "test" in table.name)
            return


def group_keys(sources: Sources, measured: Measured) -> Iterator[Key]:
    """Groups and volumes, which are proposals."""
    tables = meta_tables(sources)[:1]
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


def with_folds(keys: tuple[Key, ...], sources: Sources) -> tuple[Key, ...]:
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
