"""The image size of encoders that take images of one size only; it follows from the config alone."""

from pipeline import config
from pipeline.config import Config
from pipeline.models import encoder


def with_image_size(cfg: Config) -> Config:
    """The config with `model.img_size` and `predict.tiles`, as they follow from the crop if the encoder takes one size.

    Training, validation and prediction see images of the same size: crops in training, and tiles otherwise; or whole
    images, if `data.size` resizes all of them to that size. Other encoders leave the config as it is.

    Raises:
        ValueError: if phases, tiles or the size of the images contradict each other, with the key and what to set.
    """
    row = encoder.row(cfg.model.encoder)
    if row is None:  # `check_model` reports it
        return cfg
    if row.image_size == "any":
        if cfg.model.img_size:
            raise ValueError(
                f"model.img_size has no effect: '{row.name}' takes {encoder.IMAGE_SIZES['any']}: take it out"
            )
        return cfg
    side = _side(cfg, row)
    predict = cfg.predict.model_copy(update={"tiles": _tiles(cfg, side)})
    img_size = side if row.image_size == "crop" else None
    model = cfg.model.model_copy(update={"img_size": img_size})
    return cfg.model_copy(update={"model": model, "predict": predict})


def _side(cfg: Config, row: encoder.Encoder) -> int:
    """Height and width of the images of every phase, in pixels."""
    asked = f"'{row.name}' takes {encoder.IMAGE_SIZES[row.image_size]}"
    wanted = int(row.native_size) if row.image_size == "native" else cfg.model.img_size
    for number, phase in enumerate(cfg.train.phases):
        found = phase.crop or _exact_side(phase.size or cfg.data.size)
        if found is None:
            example = wanted or row.native_size
            raise ValueError(
                f"train.phases.{number}.crop: {asked}: set crop = {example}, or data.size = {{ exact = [{example}, "
                f"{example}] }}"
            )
        if wanted not in (None, found):
            raise ValueError(
                f"train.phases.{number}: images of {found}×{found} pixels, expected {wanted}×{wanted}: {asked}. Set "
                f"crop = {wanted} in every phase"
            )
        wanted = found
    return wanted


def _exact_side(size: config.Size | None) -> int | None:
    """Height and width of images that are resized to a square; None for others."""
    exact = size.exact if size else None
    return exact[0] if exact and exact[0] == exact[1] else None


def _tiles(cfg: Config, side: int) -> config.Tiles | None:
    """The tiles of a prediction; None if all images have the size of the encoder."""
    if tiles := cfg.predict.tiles:
        if tiles.size != side:
            raise ValueError(
                f"predict.tiles.size is {tiles.size}, but '{cfg.model.encoder}' is built for images of {side}×{side} "
                f"pixels, the size of its training images: set {side}, or leave predict.tiles out"
            )
        return tiles
    if _exact_side(cfg.data.size) == side and cfg.predict.scale == 1:
        return None
    if cfg.data.needs_whole_image:
        raise ValueError(
            f"data.{cfg.data.needs_whole_image} needs the whole image, but '{cfg.model.encoder}' predicts tiles of "
            f"{side}×{side} pixels: set data.size = {{ exact = [{side}, {side}] }}, or another encoder"
        )
    return config.Tiles(size=side, stride=max(1, side * 3 // 4))
