"""A generated competition of two bands: only their ratio shows the object; each scene is a folder of bands.

A scene is seen in red and in near infrared, of 16 bits each. Light and shadow multiply both bands, by a factor that
varies more than twentyfold from pixel to pixel, so neither band shows the crop. Its ratio of near infrared to red is
between those of the two soils around it.
"""

from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.image_files import write_image
from pipeline.demos.salt import Example, mask_text, smooth_noise, start_example, write_competition

HEIGHT, WIDTH = 64, 80  # pixels; not square, so that swapped axes are noticed
SHAPE = HEIGHT, WIDTH
BANDS = "red", "nir"  # files of a scene, the channels of an example's image in this order
SOILS = 0.8, 1.25  # ratio of near infrared to red
CROP = 1.0
CROP_SHARE = 0.25  # of the pixels
COLUMNS = "scene", "rle"


def make_bands_demo(root: Path, seed: int = 0, train: int = 240, test: int = 80) -> None:
    """Write a competition of generated scenes: the same files for the same seed.

    Writes:
        train/images/<scene>/red.png and nir.png, test/images/<scene>/red.png and nir.png, train.csv,
        sample_submission.csv, and solution.csv with the masks of the test images.

    The folder appears complete or not at all.

    Args:
        root: the folder to create.
        seed: 0 or more.
        train: number of training scenes; a smaller set is the beginning of a larger one.
        test: number of test scenes, likewise.

    Raises:
        FileExistsError: if `root` already exists.
    """
    write_competition(root, COLUMNS, partial(draw_scene, seed), mask_text, (train, test), suffix="", write=write_bands)


def write_bands(folder: Path, image: np.ndarray) -> None:
    """Write each channel of an image (H, W, 2) as a file of its own."""
    folder.mkdir()
    for number, band in enumerate(BANDS):
        write_image(folder / f"{band}.png", np.ascontiguousarray(image[..., number]))


def draw_scene(seed: int, part: int, number: int) -> Example:
    """Draw one scene, (H, W, 2) uint16, whose mask is 1 for the crop; it depends on these three numbers only.

    Args:
        seed: 0 or more.
        part: TRAIN or TEST.
        number: position in the part, from 0.
    """
    rng, image_id = start_example(seed, part, number)
    field = smooth_noise(rng, 7, 7, SHAPE)
    mask = field > np.quantile(field, 1 - CROP_SHARE)
    soil = np.where(smooth_noise(rng, 5, 5, SHAPE) > 0, *SOILS)
    ratio = np.where(mask, CROP, soil)
    light = np.exp(0.7 * smooth_noise(rng, 6, 6, SHAPE) + 0.7 * smooth_noise(rng, 0.6, 0.6, SHAPE))
    bands = 2000 * light[..., None] * np.stack([ratio**-0.5, ratio**0.5], axis=-1)
    bands *= 1 + 0.03 * rng.standard_normal(bands.shape)
    return Example(image_id, np.clip(np.rint(bands), 1, 65535).astype(np.uint16), mask.astype(np.uint8))
