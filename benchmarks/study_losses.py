"""Which loss under imbalance, does a second phase with Lovász pay, and what teaches where most masks are empty?

    python benchmarks/study_losses.py --data nuclei=FOLDER --data heart=FOLDER --jobs 2 [--seeds 3] [--quick] [--table]

How runs, intervals and "clear" are made is written in `study.py`. demo and defects are generated, and two datasets are
made from heart: heart_half has its slices at half their size, because the few steps of a study do not learn the full
ones (Dice .18 after 300 steps with BCE + Dice); heart_wide halves them once more and puts them into the middle of a
black image of heart_half's size. Dice counts an image as 1 where mask and target are both empty, as demo's often are.

1. Imbalance: five losses alone, on 1.6% (heart_half) and 0.4% (heart_wide) positive pixels. Focal is small in scale, so
   it weighs 10: AdamW divides the scale out again, but the gradient is clipped at norm 1 before that.
2. Phases: 2/3 of the steps with BCE + Dice and 1/3 with Lovász + ½ Dice at a lower rate, as the configs do. The
   schedule has an effect of its own, so the baseline has the same two phases with BCE + Dice in both; BCE + Dice in one
   phase shows what the schedule changed.
3. Empty masks: defects has 70 % of them, and an object covers .3 % of its image. Both kinds are drawn equally often.
   BCE + Dice over each image, over the batch, and over the images with an object alone; Tversky over the batch; BCE.
   The net is that of configs/defects_demo.toml, which is small.
"""

import sys

import study
from study import Comparison, Part, Study, Variant

from pipeline import config

MIX = {"bce": 1.0, "dice": 1.0}
REFINE = {"lovasz": 1.0, "dice": 0.5}


def throughout(**loss: float) -> Variant:
    """One loss in one phase."""
    return Variant((Part(loss),))


def then(loss: dict[str, float], **options: str) -> Variant:
    """BCE + Dice for 2/3 of the steps, then a loss at a fifth of the learning rate.

    Args:
        options: of Lovász.
    """
    refine = Part(loss, thirds=1, lr=4e-4, options={"lovasz": options} if options else {})
    return Variant((Part(MIX, thirds=2), refine))


IMBALANCE = {
    "bce+dice": throughout(bce=1.0, dice=1.0),
    "bce": throughout(bce=1.0),
    "dice": throughout(dice=1.0),
    "focal": throughout(focal=10.0),
    "lovasz": throughout(lovasz=1.0),
}
PHASES = {
    "bce+dice_then_same": then(MIX),
    "bce+dice": throughout(bce=1.0, dice=1.0),
    "then_lovasz": then(REFINE),
    "then_lovasz_elu": then(REFINE, variant="elu"),
    "then_lovasz_symmetric": then(REFINE, variant="symmetric"),
    "lovasz": throughout(lovasz=1.0),
}
SMALL = config.Model(encoder="tu-resnet10t", decoder_channels=(64, 32, 16, 16, 16))


def on_small(loss: dict[str, float], **options: dict[str, str]) -> Variant:
    """A loss in one phase of the small net.

    Args:
        options: of each loss.
    """
    return Variant((Part(loss, options=options),), SMALL)


EMPTIES = {
    "bce+dice": on_small(MIX),
    "bce+dice_batch": on_small(MIX, dice={"over": "batch"}),
    "bce+dice_present": on_small(MIX, dice={"empty": "ignore"}),
    "bce+tversky_batch": on_small({"bce": 1.0, "tversky": 1.0}, tversky={"over": "batch"}),
    "bce": on_small({"bce": 1.0}),
}
STUDY = Study(
    "losses",
    (
        Comparison("Losses under imbalance", ("heart_half", "heart_wide"), IMBALANCE, baseline="bce+dice"),
        Comparison("A second phase", ("nuclei", "heart_half", "demo"), PHASES, baseline="bce+dice_then_same"),
        Comparison("Mostly empty masks", ("defects",), EMPTIES, baseline="bce+dice"),
    ),
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY, study.make_parser(STUDY).parse_args()))
