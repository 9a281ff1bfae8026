"""A drafted config within a time budget: the options of a plan, each with its reason."""

import math
from collections.abc import Sequence

from pipeline.planning.budget import VALIDATED, Choices, Counts, Plan
from pipeline.planning.config_options import ConfigDraft
from pipeline.planning.fingerprint import Fingerprint

SIZES = 0.75, 0.5  # shares of the drafted size that may be planned
LAST_SIZES = 0.5, 0.35, 0.25  # that are planned only if nothing else fits, whatever is left of small objects
DIAMETERS, THICKNESS = (10, 20), 4  # pixels that small and median objects keep, and that thin masks keep
SHORT = 600  # updates, below which a training has a weaker augmentation and higher learning rates
FASTER = 2  # times the learning rates of a longer training
WEAKER = {"strong": "medium", "medium": "light"}  # augmentation of such a training
STRIDE, SMALLEST_CROP = 32, 64  # pixels: crops are multiples of the stride
SMALLEST_SIDE = 96  # pixels that the shorter side of an image keeps


def choices_of(draft: ConfigDraft, found: Fingerprint) -> Choices:
    """What a plan may choose from, around what the draft wants."""
    sizes = (1.0, *(each for each in SIZES if _is_possible(each, draft, found) and _keeps_objects(each, draft, found)))
    last = tuple(each for each in LAST_SIZES if each < sizes[-1] and _is_possible(each, draft, found))
    return Choices(sizes, fewer_views(draft.value("predict.views")), last)


def fewer_views(views: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The views, the first two, and the first one."""
    return tuple(dict.fromkeys((tuple(views), tuple(views[:2]), tuple(views[:1]))))


def _is_possible(share: float, draft: ConfigDraft, found: Fingerprint) -> bool:
    """Whether images and crops stay large enough for the network at a share of the drafted size."""
    if not {*(draft.value("data.size") or {})} <= {"factor"}:
        return False
    crops = [draft.value(f"train.phases.{number}.crop") for number in range(len(draft.phases))]
    crop = min((each for each in crops if each), default=math.inf)
    return crop * share >= SMALLEST_CROP and found.shorter.median * _factor(draft) * share >= SMALLEST_SIDE


def _keeps_objects(share: float, draft: ConfigDraft, found: Fingerprint) -> bool:
    """Whether the objects stay large enough at a share of the drafted size; false if they were not measured."""
    if found.diameter is None or found.thickness is None:
        return False
    kept = (
        (found.diameter.q10, DIAMETERS[0]),
        (found.diameter.median, DIAMETERS[1]),
        (found.thickness.median, THICKNESS),
    )
    return all(value * _factor(draft) * share >= least for value, least in kept)


def _factor(draft: ConfigDraft) -> float:
    return (draft.value("data.size") or {"factor": 1.0})["factor"]


def planned(draft: ConfigDraft, plan: Plan, counts: Counts, draws: int) -> ConfigDraft:
    """The draft with the options of a plan.

    Args:
        draws: training images, or windows of them, of one fold.
    """
    why = "planned for the time budget"
    draft = draft.with_option("folds.count", plan.split, _reason_of(draft, "folds.count") or why)
    draft = _with_extent(draft, plan)
    if counts.held_out(plan.split) > VALIDATED:
        draft = draft.with_option("train.validation_images", VALIDATED, f"{why}: of {counts.held_out(plan.split)}")
    if plan.size != 1:
        draft = _resized(draft, plan.size)
    if plan.updates < SHORT:
        draft = _with_higher_rates(_with_weaker_augmentation(draft))
    return _scheduled(draft, plan, counts, draws)


def _with_weaker_augmentation(draft: ConfigDraft) -> ConfigDraft:
    """The draft of a short training, which learns faster from images that are changed less."""
    for number in range(len(draft.phases)):
        key = f"train.phases.{number}.augment"
        wanted = draft.value(key)
        if isinstance(wanted, str) and wanted in WEAKER:
            why = f"{wanted} in a longer training; a short one learns faster from this (docs/log.md)"
            draft = draft.with_option(key, WEAKER[wanted], why)
    return draft


def _with_higher_rates(draft: ConfigDraft) -> ConfigDraft:
    """The draft of a short training, which would end long before it has learned with the rates of a longer one."""
    for number in range(len(draft.phases)):
        key = f"train.phases.{number}.lr"
        why = f"{draft.value(key):g} in a longer training; a short one needs more (docs/log.md)"
        draft = draft.with_option(key, FASTER * draft.value(key), why)
    return draft


def _with_extent(draft: ConfigDraft, plan: Plan) -> ConfigDraft:
    """The draft with the folds and views of a plan, on which no training depends."""
    draft = draft.with_option(
        "predict.views", list(plan.views), _reason_of(draft, "predict.views") or "planned for the time budget"
    )
    if plan.folds == plan.split:
        return draft.without("folds.only")
    why = f"{plan.folds} of {plan.split} folds fit into the time budget"
    return draft.with_option("folds.only", list(range(plan.folds)), why)


def _reason_of(draft: ConfigDraft, key: str) -> str:
    """The reason of an option; empty if it is at its default."""
    found = draft.find(key)
    return found.reason if found else ""


def _resized(draft: ConfigDraft, size: float) -> ConfigDraft:
    why = f"input size × {size:g}, to fit into the time budget"
    draft = draft.with_option("data.size", {"factor": round(_factor(draft) * size, 4)}, why)
    for number in range(len(draft.phases)):
        if crop := draft.value(f"train.phases.{number}.crop"):
            smaller = max(round(crop * size / STRIDE) * STRIDE, SMALLEST_CROP)
            draft = draft.with_option(f"train.phases.{number}.crop", smaller, f"{crop} × {size:g}")
    if windows := draft.value("data.crops"):
        of_size = {key: round(side * size) for key, side in windows.items()}
        draft = draft.with_option("data.crops", of_size, f"{windows['size']} and {windows['stride']} × {size:g}")
    return draft


def _scheduled(draft: ConfigDraft, plan: Plan, counts: Counts, draws: int) -> ConfigDraft:
    """The draft with the updates of the plan, shared among its phases as the draft shares its own."""
    wanted = [
        draft.value(f"train.phases.{number}.epochs") * draft.value(f"train.phases.{number}.repeats", 1)
        for number in range(len(draft.phases))
    ]
    for number, share in enumerate(each / sum(wanted) for each in wanted):
        wanted_updates = plan.updates * share
        updates = max(1, math.ceil(wanted_updates / max(1, round(plan.epochs * share))))  # of an epoch
        epochs = max(1, round(wanted_updates / updates))
        why = f"{updates * epochs} updates, planned for the time budget"
        draft = draft.with_option(f"train.phases.{number}.epochs", epochs, why)
        repeats = math.ceil(updates * counts.batch / draws * 1e4) / 1e4
        draft = draft.with_option(f"train.phases.{number}.repeats", repeats, f"{updates} updates an epoch")
    return draft
