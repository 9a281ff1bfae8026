"""The transforms that a config lists by name, with their arguments: built, and checked before a training starts.

```toml
[[train.phases.augment]]
name = "ElasticTransform"
p = 0.2
alpha = 40
border_mode = "BORDER_REFLECT_101"
```
"""

import inspect
import random
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np

from pipeline.config import GROUPS, Transform
from pipeline.data.transforms import OWN
from pipeline.metrics import VOID
from pipeline.quoting import first_line, shortened
from pipeline.schema import did_you_mean, toml_value

# The library's modules whose transforms resize masks by cv2.resize. Its INTER_NEAREST reads the corner of a pixel, so
# the mask would be half a pixel off its image. INTER_NEAREST_EXACT reads the centre; cv2.remap does not support it.
RESIZING = ("albumentations.augmentations.crops.transforms", "albumentations.augmentations.geometric.resize")
CONSTANTS = ("BORDER_", "INTER_")  # beginnings of the names of OpenCV's constants that a text may stand for
# What users of other pipelines would list, in small letters, and where it is here.
MIX = "set the phase's mix instead, such as mix = { cutmix = 0.2 }"
OTHER_PLACES = {
    **dict.fromkeys(("mixup", "cutmix", "mosaic", "copypaste", "fda", "histogrammatching"), MIX),
    **dict.fromkeys(("totensorv2", "normalize"), "the model does that: take it out"),
}
PROBE_SIDE = 64  # pixels of the image that a list is tried on, unless it is cropped to less
PROBE_SEEDS = range(3)
FURTHER_SEEDS = range(3, 50)  # of a transform that has not changed anything yet: it may rarely do


def build_transform(spec: Transform) -> A.BasicTransform | A.BaseCompose:
    """A transform with its arguments.

    Raises:
        ValueError: for an unknown name or argument, with the nearest; for a value that the transform refuses.
    """
    if spec.name in GROUPS:
        options = {"transforms": [build_transform(each) for each in spec.transforms], **spec.arguments}
        return _create(getattr(A, spec.name), spec, options)
    known = known_transforms()
    if spec.name.lower() in OTHER_PLACES:
        raise ValueError(f"{spec.name} cannot be in a list of transforms: {OTHER_PLACES[spec.name.lower()]}")
    if spec.name not in known:
        raise ValueError(f"unknown transform '{shortened(spec.name)}'. {did_you_mean(spec.name, [*known, *GROUPS])}")
    return _create(known[spec.name], spec, spec.arguments)


def _create(kind: Any, spec: Transform, options: dict[str, Any]) -> Any:
    allowed = [each for each in inspect.signature(kind).parameters if each != "p"]
    for option in options:
        if option not in allowed:
            raise ValueError(f"{spec.name} has no argument '{shortened(option)}'. {did_you_mean(option, allowed)}")
    values = {option: _constant(value) for option, value in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library only warns of some wrong arguments, and uses its defaults
        try:
            transform = kind(**values, p=spec.p)
        except Exception as error:  # of pydantic, of the library, or a warning
            raise ValueError(f"{spec.name} cannot be made: {_reason(error)}") from None
    if kind.__module__ in RESIZING and getattr(transform, "mask_interpolation", None) == cv2.INTER_NEAREST:
        transform.mask_interpolation = cv2.INTER_NEAREST_EXACT
    return transform


def _constant(value: Any) -> Any:
    """A value, or the constant of OpenCV that it names."""
    if isinstance(value, str) and value.startswith(CONSTANTS) and hasattr(cv2, value):
        return getattr(cv2, value)
    return value


def _reason(error: Exception) -> str:
    """The message of the library in one line; of wrong arguments, the first with what was expected."""
    lines = str(error).splitlines()
    if len(lines) > 2 and "validation error" in lines[0]:  # pydantic's: a title, the argument if it is one, the message
        where, what = [lines[1], lines[2]] if lines[2].startswith(" ") and " [type=" in lines[2] else ["", lines[1]]
        message = what.partition(" [type=")[0].strip().removeprefix("Value error, ")
        return f"{where}: {message}" if where else message
    return f"it needs {error}" if isinstance(error, KeyError) else shortened(first_line(error))


def known_transforms() -> dict[str, type[A.BasicTransform]]:
    """The transforms that a list may name: those of images with masks."""
    bases = (A.DualTransform, A.ImageOnlyTransform)
    found = {name: each for name, each in vars(A).items() if inspect.isclass(each) and issubclass(each, bases)}
    volumes = {name for name, each in found.items() if issubclass(each, A.Transform3D)}
    return {**{name: each for name, each in found.items() if each not in bases and name not in volumes}, **OWN}


def check_transforms(specs: Sequence[Transform], channels: int, crop: int | None) -> None:
    """Check a list: build each transform, and try it on an image with a mask.

    Args:
        channels: of the image.
        crop: side in pixels to which images are cropped before the list; None: they are not.

    Raises:
        ValueError: with the position in the list, the transform and the reason: as `build_transform`; for a transform
            that needs more than an image and a mask, changes their size or type, makes new labels, or changes nothing.
    """
    for number, spec in enumerate(specs):
        try:
            _try(spec, channels, crop)
        except ValueError as error:
            raise ValueError(f"{number}: {error}") from None


def _try(spec: Transform, channels: int, crop: int | None) -> None:
    if spec.p == 0:
        raise ValueError(f"{spec.name} has p = 0, so it is never applied: take it out")
    for each in spec.transforms:
        _try(each, channels, crop)
    transform = build_transform(spec.model_copy(update={"p": 1.0}))
    if spec.transforms:
        return
    if needed := [key for key in transform.targets_as_params if key not in ("image", "mask")]:
        raise ValueError(f"{spec.name} needs {', '.join(needed)}, which a list cannot give: take it out")
    side = min(crop or PROBE_SIDE, PROBE_SIDE)
    oblong = side if crop else side * 3 // 4
    shape = (side, oblong, channels)
    changes = partial(_try_once, spec, transform, shape, cropped=crop is not None)
    changed = sum(map(changes, PROBE_SEEDS)) or any(map(changes, FURTHER_SEEDS))
    if not changed and spec.name != "NoOp":  # which stands for no change in a group
        raise ValueError(f"{spec.name} with these arguments does not change {describe(shape)}: take it out")


def _try_once(
    spec: Transform, transform: A.BasicTransform, shape: tuple[int, int, int], seed: int, *, cropped: bool
) -> bool:
    """Whether a transform changes a random image or its mask.

    Raises:
        ValueError: if it changes their size or type, or makes new labels.
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, shape, dtype=np.uint8)
    mask = np.zeros((*shape[:2], 1), dtype=np.uint8)
    mask[: shape[0] // 2, : shape[1] // 2] = 1
    mask[shape[0] // 2 :, : shape[1] // 2] = VOID  # interpolated with 0 or 1 it would be another label
    chain = A.Compose([transform])
    chain.set_random_state(rng, random.Random(seed))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # of a transform that does nothing
            found = chain(image=image, mask=mask)
    except Exception as error:  # each transform has errors of its own
        raise ValueError(f"{spec.name} cannot change {describe(shape)} and its mask: {_reason(error)}") from None
    image_found, mask_found = found["image"], found["mask"]
    if sorted(image_found.shape[:2]) != sorted(shape[:2]):
        raise ValueError(
            f"{spec.name} changes the size of an image, which crop and scale of the phase set: take it out"
        )
    if image_found.shape[:2] != shape[:2]:
        raise ValueError(
            f"{spec.name} turns an image by a quarter, so a batch needs a crop: set it, such as crop = 256"
        )
    if image_found.shape != shape or image_found.dtype != image.dtype:
        came = f"{describe(image_found.shape)} of {image_found.dtype}"
        raise ValueError(f"{spec.name} changes an image of uint8 to {came}: take it out, the model normalizes images")
    if mask_found.shape != mask.shape or not set(np.unique(mask_found)) <= {0, 1, VOID}:
        raise ValueError(f"{spec.name} changes a mask to one of other labels or another shape: take it out")
    return not (np.array_equal(image_found, image) and np.array_equal(mask_found, mask))


def describe(shape: Sequence[int]) -> str:
    """The shape of an image, for messages.

    >>> describe((64, 48, 3))
    'an image of 64×48 with 3 channels'
    """
    channels = shape[2] if len(shape) == 3 else 1
    return f"an image of {shape[0]}×{shape[1]} with {channels} channel{'s' if channels > 1 else ''}"


def to_toml(specs: Iterable[Transform], table: str) -> str:
    """A list of transforms as TOML, ready for a config.

    Args:
        table: the key of the list, such as "train.phases.augment".

    >>> print(to_toml([Transform(name="D4", p=1.0)], "train.phases.augment"))
    [[train.phases.augment]]
    name = "D4"
    p = 1.0
    """
    return "\n\n".join(
        "\n".join([f"[[{table}]]", *(f"{key} = {to_value(value)}" for key, value in _fields(spec).items())])
        for spec in specs
    )


def _fields(spec: Transform) -> dict[str, Any]:
    parts = {"transforms": spec.transforms} if spec.transforms else {}
    return {"name": spec.name, "p": spec.p, **spec.arguments, **parts}


def to_value(value: Any) -> str:
    """A value of a config as TOML."""
    return toml_value(_plain(value))


def _plain(value: Any) -> Any:
    """A value with tables in place of transforms."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _plain(_fields(value)) if isinstance(value, Transform) else value
