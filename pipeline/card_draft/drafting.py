"""From the files of a competition to a drafted card."""

from collections.abc import Iterator

from pipeline.card_draft.class_keys import find_classes, mask_keys
from pipeline.card_draft.column_keys import column_keys, group_keys, meta_tables, with_folds
from pipeline.card_draft.dialect import find_dialect
from pipeline.card_draft.draft import CardDraft, Key, joined
from pipeline.card_draft.file_keys import file_keys, images_without_rows
from pipeline.card_draft.listing import Listing
from pipeline.card_draft.parts import Parts, check_volumes, find_train, measure
from pipeline.card_draft.row_keys import check_metric, metric_key, packed_form, row_keys
from pipeline.card_draft.sources import Sources, find_sources, texts_of
from pipeline.competition import Competition
from pipeline.metrics import metric_kind
from pipeline.quoting import listed, shortened
from pipeline.rle import Dialect
from pipeline.schema import parse


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
    given = check_metric(metric)
    of_objects = bool(given) and metric_kind(given) in ("objects", "ranked objects")
    sources = find_sources(listing, of_objects=of_objects, chosen=table)
    found = find_train(listing, sources)
    packed = packed_form(sources)
    classes, codes = find_classes(listing, sources, name, of_objects=of_objects)
    measured = measure(listing.root, found)
    check_volumes(listing.root, found, sources)
    keys = joined(
        [
            [Key("name", name, "the name given"), Key("title", _title(name), "the name given")],
            classes,
            row_keys(sources, given, packed, codes),
            [metric_key(given, packed)],
            images_without_rows(sources, found, exclusive=any(key.name == "exclusive" for key in classes)),
            file_keys(sources, found),
            column_keys(sources, packed, classes, has_volumes=found.has_volumes),
            group_keys(sources, measured),
            mask_keys(codes, classes),
            _dialect_keys(listing, sources, found, packed),
        ]
    )
    draft = CardDraft(with_folds(keys, sources), (*_facts(sources, found), *measured.facts))
    _check_card(draft, given)
    return draft


def _check_card(draft: CardDraft, metric: str) -> None:
    """Refuse a draft that is no valid card: a metric that does not fit the files.

    Raises:
        ValueError: with the reason of the card's own check.
    """
    parse(Competition, draft.tables(), f"METRIC={metric}" if metric else "the drafted card")


def _title(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").strip().capitalize() or name


def _dialect_keys(listing: Listing, sources: Sources, found: Parts, packed: str | None) -> Iterator[Key]:
    """The keys of [dialect] that differ from the default or are not certain."""
    placeholders = list(sources.sample.cells[sources.sample_layout.columns.rle]) if sources.sample else []
    if packed:
        yield Key("dialect.form", "coco", "the cells of the sample submission: base64 of COCO's counts")
        return
    texts = texts_of(sources)
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


def _facts(sources: Sources, found: Parts) -> Iterator[tuple[str, str]]:
    if sources.labels:
        rows = len(sources.labels.cells)
        yield "training table", f"{sources.labels.name}: {rows} rows of {len(sources.ids)} images"
    elif sources.outlines:
        yield "outlines", f"{sources.outlines.name}: {len(sources.ids)} images"
    else:
        yield "mask images", f"{sources.masks.count} of {len(sources.ids)} images"
        if sources.masks.held_out:
            yield "not trained on", f"masks of held-out parts: {listed(sources.masks.held_out, 200)}"
    if sources.sample:
        rows = len(sources.sample.cells)
        yield "sample submission", f"{sources.sample.name}: {rows} rows of {len(sources.test_ids)} images"
    used = [sources.sample, sources.labels, *(table for table, _ in meta_tables(sources)[:1])]
    others = [table.name for table in sources.tables if table not in used]
    if others:
        yield "not used", listed(others)
    yield "images", f"{len(found.train)} training, {len(found.test)} test, named {_describe_rule(found)}"


def _describe_rule(found: Parts) -> str:
    rule = found.rule
    return f"id + '{rule.suffix}'" if rule.pattern is None else f"by the pattern {shortened(rule.pattern)}"
