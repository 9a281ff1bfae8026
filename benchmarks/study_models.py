"""Study of architectures and of encoders of similar cost: Dice at equal steps, speed and memory.

    python benchmarks/study_models.py --data nuclei=FOLDER --jobs 2 [--seeds 3] [--quick] [--table]
    python benchmarks/study_models.py --speed      (on a quiet machine; minutes)

All variants start from random weights and train with BCE + Dice. `study.py` defines runs, intervals and "clear".

`--speed` repeat steps of training (forward, loss, backward, AdamW) and of inference on batches of crops in memory:
ROUNDS interleaved rounds of STEPS steps, with all threads of torch. Peak memory is that of a fresh process with two
training steps, less its peak after the imports: weights, gradients, AdamW's two averages, activations.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import study
import torch
from interleave import interleave, spread
from study import BATCH, UNET, Comparison, Part, Study, Variant

from pipeline import config, hardware
from pipeline.files import write_text
from pipeline.losses import build_loss
from pipeline.manifest import collect_provenance
from pipeline.models import build_model

MIX = {"bce": 1.0, "dice": 1.0}
CROP = study.DATASETS["nuclei"].crop
ROUNDS, STEPS = 5, 4
SPEED = Path("runs/study_models/speed.json")


def architecture(arch: str) -> Variant:
    """An architecture with the encoder of the U-Net."""
    return Variant((Part(MIX),), config.Model(arch=arch, encoder=UNET.encoder, weights="none"))


def unet(encoder: str) -> Variant:
    """The U-Net with another encoder."""
    return Variant((Part(MIX),), UNET.model_copy(update={"encoder": encoder}))


ARCHITECTURES = {
    "unet": unet("tu-resnet18"),
    "fcn32s": architecture("fcn32s"),
    "fcn16s": architecture("fcn16s"),
    "fcn8s": architecture("fcn8s"),
    "deeplabv3_cascade": architecture("deeplabv3_cascade"),
    "deeplabv3_aspp": architecture("deeplabv3_aspp"),
}
ENCODERS = {
    "unet": unet("tu-resnet18"),
    "unet_seresnet18": unet("tu-seresnet18"),
    "unet_seresnext26d": unet("tu-seresnext26d_32x4d"),
    "unet_efficientnet_b0": unet("tu-efficientnet_b0"),
}
STUDY = Study(
    "models",
    (
        Comparison("Architectures on tu-resnet18", ("nuclei",), ARCHITECTURES, baseline="unet"),
        Comparison("Encoders of similar cost in the U-Net", ("nuclei",), ENCODERS, baseline="unet"),
    ),
)
VARIANTS = ARCHITECTURES | ENCODERS


def training(cfg: config.Model) -> Callable[[], None]:
    """A function that takes one training step on one batch."""
    model, images, on, dtype = _ready(cfg)
    target = torch.randint(0, 2, (BATCH, 1, CROP, CROP), device=on).float()
    loss_fn = build_loss(MIX)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        with hardware.autocast(on, dtype):
            logits = model(images)
        loss_fn(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        _wait(on)

    return step


def inference(cfg: config.Model) -> Callable[[], None]:
    """A function that predicts one batch."""
    model, images, on, dtype = _ready(cfg)
    model.eval()

    @torch.inference_mode()
    def step() -> None:
        with hardware.autocast(on, dtype):
            model(images).float().sigmoid()
        _wait(on)

    return step


def _ready(cfg: config.Model) -> tuple[torch.nn.Module, torch.Tensor, torch.device, torch.dtype]:
    """Model and a batch of raw pixels on the device, as the pipeline prepares them."""
    torch.manual_seed(0)
    on = hardware.device()
    model = hardware.place(build_model(cfg), on)
    images = torch.randint(0, 256, (BATCH, 3, CROP, CROP), dtype=torch.uint8, device=on)
    return model, images.contiguous(memory_format=torch.channels_last), on, hardware.precision("auto", on)


def _wait(on: torch.device) -> None:
    if on.type == "cuda":
        torch.cuda.synchronize(on)


def repeat(step: Callable[[], None]) -> Callable[[], None]:
    """A function that takes STEPS steps."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


def throughput(make: Callable[[config.Model], Callable[[], None]]) -> dict[str, list[float]]:
    """Images per second of each variant in each round."""
    seconds = interleave({name: repeat(make(variant.model)) for name, variant in VARIANTS.items()}, ROUNDS)
    return {name: [BATCH * STEPS / value for value in values] for name, values in seconds.items()}


def print_peak(name: str) -> None:
    """Print the peak MiB of training, less the peak after the imports."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = training(VARIANTS[name].model)
    step()
    step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def peak(name: str) -> float:
    """Peak MiB of training in a fresh process."""
    command = [sys.executable, __file__, "--peak-of", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def measure_speed() -> None:
    """Measure speed and memory of all variants and write them to SPEED."""
    # Memory first: on Linux a process starts with the peak of its parent, which is still small now.
    peaks = {name: round(peak(name)) for name in VARIANTS}
    trained = throughput(training)
    gc.collect()  # frees nine models with their optimizers
    predicted = throughput(inference)
    rows = {
        name: {
            "parameters": sum(weight.numel() for weight in build_model(variant.model).parameters()),
            "training": trained[name],
            "inference": predicted[name],
            "peak": peaks[name],
        }
        for name, variant in VARIANTS.items()
    }
    head = {"threads": torch.get_num_threads(), "crop": CROP, "device": hardware.device().type}
    write_text(SPEED, json.dumps({**head, "variants": rows, **collect_provenance()}) + "\n")


def speed_table(speed: dict[str, Any]) -> str:
    """The results of `--speed` as Markdown."""
    lines = [
        "### Cost\n",
        f"`python benchmarks/study_models.py --speed` at commit {str(speed['commit'])[:7]}: {speed['device']}, "
        f"{speed['threads']} threads, batches of {BATCH} crops of {speed['crop']}×{speed['crop']}; medians (and range) "
        f"of interleaved rounds, and the ratio of the medians to unet's.\n",
        "| variant | encoder | parameters | training, images/s | to unet | inference, images/s | to unet | peak, MiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = speed["variants"]["unet"]
    for name, row in speed["variants"].items():
        cells = [name, VARIANTS[name].model.encoder, f"{row['parameters'] / 1e6:.2f} M"]
        for kind in ("training", "inference"):
            cells += [spread(row[kind]), f"{median(row[kind]) / median(base[kind]):.2f}"]
        lines.append(f"| {' | '.join([*cells, str(row['peak'])])} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = study.make_parser(STUDY)
    parser.add_argument("--speed", action="store_true", help="images per second and memory, instead of the runs")
    parser.add_argument("--peak-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of)
        return 0
    if options.speed:
        measure_speed()
    status = 0 if options.speed else study.main(STUDY, options)
    if SPEED.is_file() and options.only is None and not options.quick:
        print(speed_table(json.loads(SPEED.read_text(encoding="utf-8"))))
    return status


if __name__ == "__main__":
    sys.exit(main())
