"""Study of augmentation for images of other kinds: the shipped nuclei network, trained briefly, with a kind held out.

    python benchmarks/study_augment.py --data nuclei=FOLDER [--seeds 2] [--jobs 2] [--quick] [--table]

`study.py` defines runs, intervals and "clear". The test set of nuclei has stains, scales and sizes that its training
set has not, and its folds, which share all kinds, cannot show which augmentation helps there. Here each fold is a kind
(`folds.hold_out = ["kind", "height"]`, folds/nuclei_kinds.csv): the stained images, the fluorescence images of 360 and
512 pixels, and the other ones (those of 603×1272 are not validated on: too large). The fold of the 338 fluorescence
images of 256 pixels is left out, because it has more than half of all images. The network and the losses are those of
configs/nuclei.toml; crops are smaller and updates fewer.

The baseline is the strength "strong" as it was until this study, and "colours" is what it is since. Each variant
changes one thing of the baseline, "all" several, and "medium" is the weaker strength.
"""

import sys

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
COLOURED = tuple(STRENGTHS["strong"].transforms(3))
# Less often in the baseline: hue, shuffled channels, grey, inverted.
RARE = {"HueSaturationValue": 0.25, "ChannelShuffle": 0.1, "ToGray": 0.1, "InvertImg": 0.05}
STRONG = tuple(each.model_copy(update={"p": RARE.get(each.name, each.p)}) for each in COLOURED)
SCALE = {"scale": (0.6, 1.8), "scale_p": 0.6}  # of "strong"; a list has none of its own
STAINS = Transform(name="HEDJitter", p=0.5, sigma=0.2)
MIXES = {"histogram": 0.2, "fourier": 0.2}
WIDE = {"scale": (0.4, 2.5), "scale_p": 0.8}


def augmented(augment: str | tuple[Transform, ...] = STRONG, **phase: object) -> Variant:
    """The shipped network with other options of augmentation."""
    scale = {} if isinstance(augment, str) else SCALE
    return Variant(PARTS, NETWORK, {"augment": augment, **scale, **phase})


VARIANTS = {
    "strong": augmented(),
    "colours": augmented(COLOURED),
    "mixes": augmented(mix=MIXES),
    "wide_scale": augmented(**WIDE),
    "all": augmented((*COLOURED, STAINS), mix=MIXES, **WIDE),
    "stains": augmented((*STRONG, STAINS)),
    "medium": augmented("medium"),
}
STUDY = Study(
    "augment",
    (Comparison("A kind that was not trained on", tuple(KINDS), VARIANTS, baseline="strong", pooled=True),),
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY, study.make_parser(STUDY).parse_args()))
