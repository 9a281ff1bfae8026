"""Study of augmentation for images of other kinds: the shipped nuclei network, trained briefly, with a kind held out.

    python benchmarks/study_augment.py --data nuclei=FOLDER [--seeds 2] [--jobs 2] [--quick] [--table]

`study.py` defines runs, intervals and "clear". The test set of nuclei has stains, scales and sizes that its training
set has not, and its folds, which share all kinds, cannot show which augmentation helps there. Here each fold is a kind
(`folds.hold_out = ["kind", "height"]`, folds/nuclei_kinds.csv): the stained images, the fluorescence images of 360 and
512 pixels, and the other ones (those of 603×1272 are not validated on: too large). The fold of the 338 fluorescence
images of 256 pixels is left out, because it has more than half of all images. The network and the losses are those of
configs/nuclei.toml; crops are smaller and updates fewer.

The baseline is the strength "strong", as shipped. Each variant changes one thing of it, "colours" and "all" several,
and "medium" is the weaker strength.
"""

import sys
from collections.abc import Mapping

import study
from study import Comparison, Dataset, Part, Study, Variant

from pipeline import config
from pipeline.config import Transform
from pipeline.data.augment import STRENGTHS

KINDS = {"nuclei_stained": 1, "nuclei_360": 2, "nuclei_520": 3}  # folds of folds/nuclei_kinds.csv
study.DATASETS |= {
    name: Dataset(
        "nuclei", "nuclei_kinds", channels=3, augment="strong", crop=128, percentiles=(1, 99.8), fold=fold, largest=700
    )
    for name, fold in KINDS.items()
}
study.DERIVED |= dict.fromkeys(KINDS, ("nuclei", None))
NETWORK = config.Model(decoder_channels=(128, 64, 32, 16, 16))  # of configs/nuclei.toml: lite0, ImageNet weights
PARTS = (Part({"bce": 1.0, "dice": 1.0}, thirds=2), Part({"lovasz": 1.0, "dice": 0.5}, thirds=1, lr=4e-4))
STRONG = tuple(STRENGTHS["strong"].transforms(3))
HUES = {"HueSaturationValue": 0.5, "ChannelShuffle": 0.2, "ToGray": 0.3}  # in "strong" .25, .1 and .1
INVERTED = {"InvertImg": 0.25}  # in "strong" .05
SCALE = {"scale": (0.6, 1.8), "scale_p": 0.6}  # of "strong"; a list has none of its own
STAINS = Transform(name="HEDJitter", p=0.5, sigma=0.2)
MIXES = {"histogram": 0.2, "fourier": 0.2}
WIDE = {"scale": (0.4, 2.5), "scale_p": 0.8}


def more_often(chances: Mapping[str, float]) -> tuple[Transform, ...]:
    """The transforms of "strong", some with another probability."""
    return tuple(each.model_copy(update={"p": chances.get(each.name, each.p)}) for each in STRONG)


def augmented(augment: str | tuple[Transform, ...] = STRONG, **phase: object) -> Variant:
    """The shipped network with other options of augmentation."""
    scale = {} if isinstance(augment, str) else SCALE
    return Variant(PARTS, NETWORK, {"augment": augment, **scale, **phase})


VARIANTS = {
    "strong": augmented(),
    "hues": augmented(more_often(HUES)),
    "colours": augmented(more_often(HUES | INVERTED)),
    "mixes": augmented(mix=MIXES),
    "wide_scale": augmented(**WIDE),
    "all": augmented((*more_often(HUES | INVERTED), STAINS), mix=MIXES, **WIDE),
    "stains": augmented((*STRONG, STAINS)),
    "medium": augmented("medium"),
}
STUDY = Study(
    "augment",
    (Comparison("A kind that was not trained on", tuple(KINDS), VARIANTS, baseline="strong", pooled=True),),
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY, study.make_parser(STUDY).parse_args()))
