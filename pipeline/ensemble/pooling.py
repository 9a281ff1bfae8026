"""The renderer of each image; for thresholds that are shares of several images, after one pass over the images."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pipeline.ensemble.renderer import Renderer
from pipeline.postprocess.shares import Histograms, Place, histogram_of

RendererOf = Callable[[str], Renderer]  # from an image's id to a renderer with fixed thresholds and without gates


def renderer_at(
    renderer: Renderer, places: Mapping[str, Place], images: Iterable[tuple[str, np.ndarray]]
) -> RendererOf:
    """The renderer of each image, with the thresholds of its pools and without gates.

    Args:
        places: of each image.
        images: id and combined values (C, H, W) uint8 of every image; not read unless the renderer is `pooled`.
    """
    histograms = [Histograms() for _ in renderer.parts]
    for image_id, combined in images if renderer.pooled else ():
        for part, values in zip(histograms, combined, strict=True):
            part.add(histogram_of(values), places[image_id])
    return lambda image_id: renderer.at_place(places[image_id], histograms)
