"""Study of losses: under class imbalance, in a second phase with Lovász, and with mostly empty masks.

    python benchmarks/study_losses.py --data nuclei=FOLDER --data heart=FOLDER --jobs 2 [--seeds 3] [--quick] [--table]

`study.py` defines runs, intervals and "clear". demo and defects are generated, and two datasets are derived from
heart: heart_half has its slices at half their size, because a study has too few steps to learn the full ones (Dice .18
after 300 steps with BCE + Dice); heart_wide halves them once more and pads them with black to the size of heart_half.
Dice is 1 for an image with an empty mask and target, which are frequent in demo.

1. Imbalance: five losses alone, with 1.6% (heart_half) and 0.4% (heart_wide) positive pixels. Focal has small values,
   so its weight is 10: AdamW removes the scale, but the gradient is clipped at norm 1 before that.
2. Phases: 2/3 of the steps with BCE + Dice and 1/3 with Lovász + ½ Dice at a lower rate, as the configs do. The
   schedule itself has an effect, so the baseline has the same two phases with BCE + Dice in both; BCE + Dice in one
   phase shows the effect of the schedule.
3. Empty masks: 70 % of the masks of defects are empty, and an object covers .3 % of its image. Empty and other images
   are sampled equally often. BCE + Dice per image, over the batch, and per image with an object only; Tversky over the
   batch; BCE. The network is the small one of configs/defects_demo.toml.
4. Distances and centrelines: BCE + Dice with a further loss or option, on small objects (heart_half) and on generated
   thin vessels (vessels, `vessels.py`). Boundary loss has a weight that rises from 0.
"""

import sys

import study
from study import Comparison, Part, Study, Variant

from pipeline import config

MIX = {"bce": 1.0, "dice": 1.0}
REFINE = {"lovasz": 1.0, "dice": 0.5}


def throughout(**loss: float | tuple[float, float]) -> Variant:
    """One loss in one phase."""
    return Variant((Part(loss),))


def then(loss: dict[str, float], **options: str) -> Variant:
    """BCE + Dice for 2/3 of the steps, then a loss at a fifth of the learning rate.

    Args:
        options: options of Lovász.
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
SMALL = config.Model(encoder="tu-resnet10t", weights="none", decoder_channels=(64, 32, 16, 16, 16))


def on_small(loss: dict[str, float], **options: dict[str, str]) -> Variant:
    """A loss in one phase of the small network.

    Args:
        options: options of each loss.
    """
    return Variant((Part(loss, options=options),), SMALL)


EMPTIES = {
    "bce+dice": on_small(MIX),
    "bce+dice_batch": on_small(MIX, dice={"over": "batch"}),
    "bce+dice_present": on_small(MIX, dice={"empty": "ignore"}),
    "bce+tversky_batch": on_small({"bce": 1.0, "tversky": 1.0}, tversky={"over": "batch"}),
    "bce": on_small({"bce": 1.0}),
}
DISTANCES = {
    "bce+dice": throughout(bce=1.0, dice=1.0),
    "bce+dice+boundary": throughout(bce=1.0, dice=1.0, boundary=(0.0, 0.05)),
    "bce+dice+cldice": throughout(bce=1.0, dice=1.0, cldice=0.5),
    "bce+dice+skeleton_recall": throughout(bce=1.0, dice=1.0, skeleton_recall=1.0),
    "weighted_bce+dice": throughout(weighted_bce=1.0, dice=1.0),
    "unified_focal": throughout(unified_focal=1.0),
    "bce_hardest+dice": Variant((Part(MIX, options={"bce": {"hardest": 0.3}}),)),
    "bce_smoothed+dice": Variant((Part(MIX, options={"bce": {"boundary_smoothing": 1.0}}),)),
}
STUDY = Study(
    "losses",
    (
        Comparison("Losses under imbalance", ("heart_half", "heart_wide"), IMBALANCE, baseline="bce+dice"),
        Comparison("A second phase", ("nuclei", "heart_half", "demo"), PHASES, baseline="bce+dice_then_same"),
        Comparison("Mostly empty masks", ("defects",), EMPTIES, baseline="bce+dice"),
        Comparison("Distances and centrelines", ("heart_half", "vessels"), DISTANCES, baseline="bce+dice"),
    ),
)

if __name__ == "__main__":
    sys.exit(study.main(STUDY, study.make_parser(STUDY).parse_args()))
