"""The options of a first config, each with the measured value that it follows from.

The rules are those of the configs that ship and of the studies in docs/studies/; docs/log.md has what did not help.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.competition import Competition
from pipeline.config import Predict, Transform
from pipeline.data.augment import STRENGTHS
from pipeline.data.labels import Labels
from pipeline.planning.config_options import ConfigDraft, Option
from pipeline.planning.fingerprint import Fingerprint, Quantiles
from pipeline.planning.fingerprint_table import count_words
from pipeline.symmetries import SYMMETRIES

BATCH_SIZE = 8
LEARNING_RATES = 2e-3, 5e-4  # of the first and of the second phase, at BATCH_SIZE
STRIDE = 32  # of the coarsest features: crops are multiples of it
WHOLE_SIDE = 320  # pixels up to which images of one size are trained on whole
CROP_SIDES = 64, 256, 384  # the smallest crop; the largest one; the largest one if objects ask for more
SHRINK_ABOVE = 768  # pixels of the longer side, from which on images may be shrunk
SHRUNK_SIDE = 512  # pixels of the longer side that are left at least
SHRUNK_OBJECTS = 16, 32  # pixels of the diameter that small and median objects keep
SHRUNK_THICKNESS = 4  # pixels that the thinnest masks keep
WINDOWED = 1 << 22  # pixels from which on training reads windows of an image, and prediction has tiles
TILE, TILE_STRIDE = 512, 384
PREDICTED_PIXELS = 1 << 22  # of the images that are predicted at once: about 2 GB in the network
MOSTLY_EMPTY = 0.5  # share of empty images, or of empty masks
RARE_PIXELS = 0.03  # masked share of the images with a mask, below which Lovász scored lower
THIN = 0.15  # thickness of a mask, as a share of the extent of its objects, below which it is thin
STEADY = 0.6  # ratio of the intensity ranges of images of low and high range, from which on exposure is alike
ALIKE = 0.5  # correlation of neighbouring slices from which on they show the same
OVERLAP = 0.2  # Dice of the masks of neighbouring slices, likewise
UPDATES = 32  # of an epoch, at least: images are repeated
FEW_UPDATES = 50  # of an epoch, below which a phase has more epochs
VIEWS = "flip_horizontal", "flip_vertical", "rotate_180"  # of test-time augmentation, if they hold


class _Input(NamedTuple):
    """How the network gets its images, which several rules depend on."""

    factor: float | None  # of the size; None: as the files
    by_window: bool  # in training, of images that are not read whole
    in_tiles: bool  # in prediction
    boundary: bool  # of touching objects, as a further channel
    neighbours: bool  # slices as channels


def draft_config(card: Competition, found: Fingerprint, competition: str, data_root: str | None = None) -> ConfigDraft:
    """The config for a competition.

    Args:
        found: what was measured in its images and masks.
        competition: the card's name, or the path of the card's file.
        data_root: the folder of its files; None: data/<card>.
    """
    factor = _shrink(found)
    scale = factor or 1.0
    pixels = found.shorter.median * found.longer.median
    boundary = card.instances and found.touching != 0
    by_window = pixels > WINDOWED and Labels.of(card, 2.0 if boundary else None).supports_windows
    in_tiles = by_window or pixels * scale**2 > WINDOWED
    inputs = _Input(factor, by_window, in_tiles, boundary, _uses_neighbours(card, found))
    crop, crop_reason = _crop(found, scale)
    augment, augment_reason = _augment(found, crop)
    options = [Option("competition", competition, card.title)]
    if data_root is not None:
        options.append(Option("data.root", data_root, "the competition's files"))
    options += _data_options(card, found, inputs, crop)
    options += _fold_options(card, found)
    options += _model_options(card, found, inputs)
    options += _train_options(card, found, inputs)
    options += _predict_options(card, found, inputs)
    phase = [Option("crop", crop, crop_reason)] if crop else []
    phase.append(Option("augment", augment, augment_reason))
    if crop and not isinstance(augment, str) and _differs(found):
        medium = STRENGTHS["medium"]
        phase.append(Option("scale", list(medium.scale), 'random resize factors, as of augment = "medium"'))
        phase.append(Option("scale_p", medium.scale_p, "share of the crops that are resized"))
    schedules = _schedules(found, inputs, crop, _train_share(options))
    losses = _losses(card, found)
    phases = [(*loss, *schedule, *phase) for loss, schedule in zip(losses, schedules, strict=True)]
    return ConfigDraft(tuple(options), tuple(phases))


# ---------------------------------------------------------------------------------------------- words


def _number(value: float) -> str:
    """A number for a reason: whole and with separators from 10 on, else with two digits.

    >>> _number(1272.0), _number(3.26), _number(0.0123), _number(-0.004)
    ('1,272', '3.3', '0.012', '-0.004')
    """
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"


def _span(found: Quantiles) -> str:
    low, high = _number(found.smallest), _number(found.largest)
    return low if low == high else f"{low} to {high}"


def _sides(found: Fingerprint) -> str:
    """The sizes of the images in words, such as "256 to 1,272 pixels"."""
    if found.sizes == 1:
        return f"{_number(found.shorter.median)} × {_number(found.longer.median)} pixels"
    return f"{_number(found.shorter.smallest)} to {_number(found.longer.largest)} pixels"


def _objects(found: Fingerprint) -> str:
    return f"objects {_number(found.diameter.median)} pixels (median)" if found.diameter else "no object measured"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


# ---------------------------------------------------------------------------------------------- size and crop


def _shrink(found: Fingerprint) -> float | None:
    """The factor to which images may be shrunk because their objects are large; None: the size of the files."""
    if found.diameter is None or found.longer.median <= SHRINK_ABOVE:
        return None
    kept = (
        (found.longer.median, SHRUNK_SIDE),
        (found.diameter.q10, SHRUNK_OBJECTS[0]),
        (found.diameter.median, SHRUNK_OBJECTS[1]),
        (found.thickness.q10, SHRUNK_THICKNESS),
    )
    fitting = [factor for factor in (0.25, 0.5) if all(value * factor >= least for value, least in kept)]
    return fitting[0] if fitting else None


def _crop(found: Fingerprint, scale: float) -> tuple[int | None, str]:
    """The side of the training crops in pixels, and why; None: whole images."""
    side, longest = found.shorter.median * scale, found.longer.largest * scale
    has_all = found.symmetries is not None and len(found.symmetries) == len(SYMMETRIES) - 1
    if found.sizes == 1 and longest <= WHOLE_SIDE and not has_all:
        return None, ""
    smallest, largest, for_objects = CROP_SIDES
    whole = -(-side // STRIDE) * STRIDE
    if side <= 2 * smallest:
        crop = int(whole)
    else:
        crop = int(min(max(0.75 * side // STRIDE * STRIDE, smallest), largest))
        wanted = 1.5 * found.extent.median * scale // STRIDE * STRIDE if found.extent else 0
        crop = int(max(crop, min(wanted, side // STRIDE * STRIDE, for_objects)))
    at = f", × {scale:g}" if scale != 1 else ""
    return crop, f"images are {_sides(found)}, {_objects(found)}{at}"


def _differs(found: Fingerprint) -> bool:
    return found.shift is not None and found.shift.differ


def _augment(found: Fingerprint, crop: int | None) -> tuple[str | list[Transform], str]:
    """The augmentation of all phases, and why."""
    names = found.symmetries
    shift = f"; test images differ (AUC {found.shift.auc:.2f}: {found.shift.differences[0]})" if _differs(found) else ""
    if names is None:
        return "light", f"{found.symmetries_of}: too few to tell which flips and rotations occur{shift}"
    if len(names) == len(SYMMETRIES) - 1 and crop:
        return "strong" if shift else "medium", f"all flips and rotations hold in {found.symmetries_of}{shift}"
    held = [name for name in VIEWS[:2] if name in names]
    if len(held) == 2 and VIEWS[2] not in names:
        held = held[:1]
    kept = f"{' and '.join(held)} hold{'s' * (len(held) != 2)}" if held else "no flip or rotation leaves images alike"
    what = f"{kept} in {found.symmetries_of}{shift}"
    if held == ["flip_horizontal"] and not shift:
        return "light", what
    base = STRENGTHS["medium" if shift else "light"].transforms(3)
    flips = {"flip_horizontal": "HorizontalFlip", "flip_vertical": "VerticalFlip"}
    rest = [each for each in base if each.name not in ("D4", "HorizontalFlip")]
    return [*(Transform(name=flips[name], p=0.5) for name in held), *rest], what


# ---------------------------------------------------------------------------------------------- the tables


def _data_options(card: Competition, found: Fingerprint, inputs: _Input, crop: int | None) -> list[Option]:
    options = _intensity_options(card, found, inputs)
    values = found.nodata_values
    if found.nonfinite:
        shown = " or ".join(f"{value:g}" for value in values)
        of = f"NaN or infinite pixels{f', or such of {shown}' * bool(values)}"
        options.append(Option("data.nodata", "zero", f"{found.nonfinite:.0%} of the images have {of}"))
    if values:
        options.append(
            Option("data.nodata_values", list(values), "of pixels without a measurement, as in satellite images")
        )
    if inputs.factor:
        options.append(
            Option("data.size", {"factor": inputs.factor}, f"images are {_sides(found)}, {_objects(found)}: large")
        )
    if inputs.by_window:
        why = f"images of {_sides(found)} are read by window"
        options.append(Option("data.crops", {"size": crop * 3 // 2, "stride": crop}, why))
    if inputs.boundary:
        touch = "not measured" if found.touching is None else f"{found.touching:.0%} of the objects touch another one"
        options.append(Option("data.boundary", 2.0, f"pixels, a channel that separates objects: {touch}"))
    if inputs.neighbours:
        near = found.neighbours
        overlap = "" if near.overlap is None else f", their masks overlap by {near.overlap:.2f} (Dice)"
        why = f"neighbouring slices of {near.series} series correlate by {near.correlation:.2f}{overlap}"
        options.append(Option("data.neighbours", 2, why))
    return options


def _intensity_options(card: Competition, found: Fingerprint, inputs: _Input) -> list[Option]:
    """How values become 0 … 255."""
    low, high = found.lowest, found.highest
    ratio = _steadiness(found)
    spread = f"image ranges differ by {_number(1 / ratio)} (q90 / q10)" if ratio else "some images are constant"
    needs_range = found.dtype not in ("uint8", "bool")
    if not needs_range and (ratio >= STEADY or inputs.in_tiles):  # percentiles need whole images
        return []
    if needs_range and low.median < 0 and not card.files.channels:
        window = found.masked_values or found.values
        of = "masked pixels" if found.masked_values else "all pixels"
        why = f"{found.dtype}, values below 0: one unit for all images; percentiles .5 and 99.5 of {of}"
        return _window(window, why)
    if needs_range and (inputs.in_tiles or (ratio >= STEADY and not card.files.channels)):
        return _window(found.values, f"{found.dtype}, alike in all images: percentiles .5 and 99.5 of all images")
    why = f"of each image: {found.dtype}, {_number(low.smallest)} to {_number(high.largest)}; {spread}"
    if card.files.channels:
        why += "; a ratio of channels may save training (data.channels in docs/competitions.md)"
    return [Option("data.percentiles", [1, 99.8], why)]


def _steadiness(found: Fingerprint) -> float:
    """How alike the intensity ranges of the images are: that of the darkest tenth as a share of the brightest's."""
    low = found.lowest.median
    return max(0.0, (found.highest.q10 - low) / (found.highest.q90 - low)) if found.highest.q90 > low else 0.0


def _window(values: tuple[float, float], reason: str) -> list[Option]:
    low, high = values if values[0] < values[1] else (values[0], values[0] + 1)  # constant images
    rounded = [round(each) if high - low >= 100 else float(f"{each:.6g}") for each in (low, high)]
    return [Option("data.window", rounded, reason)]


def _fold_options(card: Competition, found: Fingerprint) -> list[Option]:
    count = found.groups
    pairs = "" if found.near_duplicates is None else f", {_count(found.near_duplicates, 'pair')} of near-duplicates"
    options = []
    if count == 1:
        why = "all images are one group, so related images are in different folds: the score is too high"
        options.append(Option("folds.grouped", False, why))
        count = found.images
    if card.folds is None or card.folds > count:
        largest = f", the largest of {found.largest_group:,}" if 1 < found.largest_group < found.images else ""
        of = f"{_count(count, 'independent group')} of " if found.groups > 1 else ""
        why = f"{of}{_count(found.images, 'image')}{largest}{pairs}"
        options.append(Option("folds.count", _fold_count(count, found), why))
    if found.columns:
        why = "; ".join(f"{name}: {count_words(counts)}" for name, counts in found.columns)
        options.append(Option("folds.balance", [name for name, _ in found.columns], why))
    return options


def _fold_count(groups: int, found: Fingerprint) -> int:
    count = 5 if groups >= 10 else 3 if groups >= 5 or groups == 3 else 2
    filled = round(found.images * (1 - found.empty))
    largest = found.largest_group if groups != found.images else 1
    while count > 2 and (count > filled or (groups > count and largest > 1.5 * found.images / count)):
        count -= 1
    return count


def _uses_neighbours(card: Competition, found: Fingerprint) -> bool:
    near = found.neighbours
    if near is None or card.files.channels or found.equal_channels < 1 or near.slices < 3:
        return False
    return near.correlation >= ALIKE or (near.overlap or 0) >= OVERLAP


def _model_options(card: Competition, found: Fingerprint, inputs: _Input) -> list[Option]:
    weights = "of an installed package: .909 on nuclei, .892 from random weights (docs/studies/nuclei.md)"
    options = [
        Option("model.encoder", "tu-tf_efficientnet_lite0", "the default, small enough for a CPU"),
        Option("model.weights", "imagenet", weights),
    ]
    if not (inputs.neighbours or card.files.channels or card.files.frame is not None):
        options.append(_channel_option(found))
    labels = Labels.of(card, 2.0 if inputs.boundary else None)
    if labels.channels > 1:
        extra = ", and the boundaries between objects" if inputs.boundary else ""
        options.append(Option("model.classes", labels.channels, f"{', '.join(card.classes)}{extra}"))
    half = "half of the default, as in configs/nuclei.toml"
    return [*options, Option("model.decoder_channels", [128, 64, 32, 16, 16], half)]


def _channel_option(found: Fingerprint) -> Option:
    if found.channels == 1:
        return Option("model.in_channels", 1, "images are grey")
    if found.channels == 3 and found.equal_channels == 1:
        return Option("model.in_channels", 1, f"red, green and blue are equal in all {found.decoded} images measured")
    if found.channels == 3:
        return Option("model.in_channels", 3, f"colours differ in {1 - found.equal_channels:.0%} of the images")
    return Option("model.in_channels", found.channels, "of the files")


def _train_options(card: Competition, found: Fingerprint, inputs: _Input) -> list[Option]:
    options = [Option("train.batch_size", BATCH_SIZE, "with the learning rates below, as in the configs that ship")]
    if card.exclusive:
        return options
    if found.empty > MOSTLY_EMPTY:
        why = f"{found.empty:.0%} of the images are empty: half of the drawn images have a mask"
        options.append(Option("train.balance", "empty", why))
    elif inputs.by_window and found.coverage and found.coverage.median < 0.2:
        why = f"masks cover {found.coverage.median:.1%} of an image: half of the drawn windows have a mask"
        options.append(Option("train.balance", "empty", why))
    return options


def _predict_options(card: Competition, found: Fingerprint, inputs: _Input) -> list[Option]:
    options = [_views(found, inputs)]
    if inputs.in_tiles:
        why = f"images of {_sides(found)} are predicted tile by tile"
        options.append(Option("predict.tiles", {"size": TILE, "stride": TILE_STRIDE}, why))
    elif (batch := _predicted_at_once(found, inputs)) < Predict().batch_size:
        why = f"images of {_sides(found)}: so many fit into the memory of a small machine"
        options.append(Option("predict.batch_size", batch, why))
    if not card.exclusive and not card.instances:
        shares, why = ["image", "volume", "test set"], "whose share may set a threshold: all are tried"
        if not card.volume_pattern:
            shares, why = ["image", "test set"], "whose share may set a threshold: there are no volumes"
        if _differs(found):
            shares = ["image"]
            why = f"test images differ (AUC {found.shift.auc:.2f}): their masks may cover another share"
        options.append(Option("ensemble.shares", shares, why))
    return options


def _predicted_at_once(found: Fingerprint, inputs: _Input) -> int:
    """Images of one size in a batch of predictions, of PREDICTED_PIXELS together, one at least."""
    largest = max(
        shorter.largest * longer.largest
        for shorter, longer in ((found.shorter, found.longer), (found.test_shorter, found.test_longer))
        if shorter is not None
    )
    return max(1, min(int(PREDICTED_PIXELS / (largest * (inputs.factor or 1.0) ** 2)), Predict().batch_size))


def _views(found: Fingerprint, inputs: _Input) -> Option:
    if inputs.by_window:
        return Option("predict.views", ["identity"], "one view, since the images are large")
    if found.symmetries is None:
        return Option("predict.views", ["identity", "flip_horizontal"], "the flip of the augmentation")
    held = [name for name in VIEWS if name in found.symmetries]
    why = f"symmetries that hold in {found.symmetries_of}" if held else f"no flip holds in {found.symmetries_of}"
    return Option("predict.views", ["identity", *held], why)


# ---------------------------------------------------------------------------------------------- phases


def _train_share(options: Sequence[Option]) -> float:
    count = next((each.value for each in options if each.key == "folds.count"), 5)
    return 1 - 1 / count


def _schedules(
    found: Fingerprint, inputs: _Input, crop: int | None, train_share: float
) -> tuple[list[Option], list[Option]]:
    """Epochs, repeats and learning rate of both phases."""
    draws = found.images * train_share
    if inputs.by_window:
        scale = inputs.factor or 1.0
        draws *= (found.shorter.median * scale // crop + 1) * (found.longer.median * scale // crop + 1)
    updates = max(1, int(draws / BATCH_SIZE))
    repeats = -(-UPDATES // updates)
    epochs = (6, 3) if updates * repeats < FEW_UPDATES else (4, 2)
    what = f"{_count(updates * repeats, 'update')} per epoch"
    phases = []
    for number, rate in zip(epochs, LEARNING_RATES, strict=True):
        options = [Option("epochs", number, what)]
        if repeats > 1:
            why = f"{_count(int(draws), 'training image')} alone make {_count(updates, 'update')}"
            options.append(Option("repeats", repeats, why))
        phases.append([*options, Option("lr", rate, "")])
    return phases[0], phases[1]


def _losses(card: Competition, found: Fingerprint) -> tuple[list[Option], list[Option]]:
    """The losses of both phases."""
    if card.exclusive:
        first = {"cross_entropy": 1.0, "dice_softmax": 1.0}
        second = {"lovasz_softmax": 1.0, "cross_entropy": 0.5}
        why = f"metric {card.metric}, one class per pixel"
        return [Option("loss", first, why)], [Option("loss", second, "mostly an overlap loss, from the best weights")]
    both = {"bce": 1.0, "dice": 1.0}
    first = [Option("loss", both, f"metric {card.metric}: a pixel loss and an overlap loss")]
    if (empty := _empty_masks(found)) > MOSTLY_EMPTY:
        why = f"{empty:.0%} of the masks are empty: sums over the batch were better (docs/studies/losses.md)"
        options = Option("loss_options", {"dice": {"over": "batch"}}, why)
        return [*first, options], [Option("loss", both, _no_lovasz(card, found)), options]
    if why := _no_lovasz(card, found):
        return first, [Option("loss", both, why)]
    return first, [Option("loss", {"lovasz": 1.0, "dice": 0.5}, "overlap losses, from the best weights of phase 1")]


def _empty_masks(found: Fingerprint) -> float:
    """The share of empty masks: each class of an image has one."""
    return 1 - sum(each.images for each in found.classes) / len(found.classes)


def _no_lovasz(card: Competition, found: Fingerprint) -> str:
    """Why the second phase has the losses of the first one; empty if it may have Lovász."""
    if Labels.of(card).is_soft:
        return "masks are soft, which Lovász does not take"
    if found.coverage is None:
        return "no mask measured"
    if _empty_masks(found) > MOSTLY_EMPTY or found.coverage.median < RARE_PIXELS:
        return (
            f"masks cover {found.coverage.median:.1%} of an image with a mask: Lovász scored lower on rare masks "
            f"(docs/studies/losses.md)"
        )
    if _is_thin(found):
        thickness, extent = _number(found.thickness.median), _number(found.extent.q90)
        return f"masks are thin, {thickness} of {extent} pixels: on such masks Lovász was not measured"
    return ""


def _is_thin(found: Fingerprint) -> bool:
    return bool(found.thickness and found.extent) and found.thickness.median < THIN * found.extent.q90
