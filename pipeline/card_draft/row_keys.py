"""The keys of a card's metric, and of what a row of its tables is."""

from collections.abc import Iterator

from pipeline.card_draft.draft import Key
from pipeline.card_draft.mask_codes import MaskCodes
from pipeline.card_draft.sources import Sources, rows_per_mask, texts_by_image
from pipeline.card_draft.tables import form_of
from pipeline.competition import canonical_metric
from pipeline.metrics import metric_kind, metric_names, parse_metric
from pipeline.quoting import shortened


def check_metric(metric: str) -> str:
    """The canonical text of a metric; empty if none is given.

    Raises:
        ValueError: for an unknown name, or parameters that it does not take.
    """
    if not metric.strip():
        return ""
    try:
        name, parameters = parse_metric(metric.strip())
        return canonical_metric({"name": name, **parameters})
    except ValueError as error:
        raise ValueError(f"METRIC={shortened(metric)}: {error}") from None


def metric_key(metric: str, packed: str | None) -> Key:
    """The key of the metric: the one given, else the first that fits, which is not sure.

    Args:
        metric: as `check_metric` returns it.
        packed: the form of a cell with several objects, as `packed_form` returns it.
    """
    if metric:
        name, parameters = parse_metric(metric)
        is_preset = metric in metric_names() and metric != name
        value = metric if is_preset or not parameters else {"name": name, **parameters}
        return Key("metric", value, "the metric given")
    name = metric_names("ranked objects", complete=True)[0] if packed else "mean_dice"
    return Key(
        "metric", name, f"no file shows the metric: read the evaluation page, and give it as METRIC={name}", False
    )


def row_keys(sources: Sources, metric: str, packed: str | None, codes: MaskCodes | None) -> Iterator[Key]:
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


def packed_form(sources: Sources) -> str | None:
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
