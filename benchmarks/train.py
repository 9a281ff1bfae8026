"""Training speed: the pipeline's loop against a plain script, with the same model and crops.

    python benchmarks/train.py [--data folder]      (default: DATA, or generated images)

    ours   uint8 images from memory, channels-last, the fastest precision of this machine, fused AdamW, averaged weights
    plain  float32, default memory format, default DataLoader that opens and decodes each image, AdamW

Both: smp.Unet with tu-resnet18 and its default decoder, 192×192 crops, the augmentation "medium", BCE + Dice, batches
of 16. Rounds alternate; ratios are within a round.

The share of peak is the number of operations of the convolutions (forward and backward) per second, over that of the
largest matrix products on this machine with the same threads and precision. Below the table, a profile of our loop
shows the share of time of each group of operations.
"""

import argparse
import os
import sys
import tempfile
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from interleave import interleave, ratios, spread
from peak import flops_of, matrix_peak
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training_loop import MIX, training_loop

from pipeline import competition, config, hardware
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.dataset import MaskedImages
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.loader import Loader, on_device
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.data.sampler import EpochSampler
from pipeline.losses import build_loss
from pipeline.models import build_model

ENCODER, CROP, BATCH = "tu-resnet18", 192, 16
BATCHES, ROUNDS = 4, 5


def read(data: str | None):
    """Index and card of nuclei in `data`, or of generated images."""
    if data:
        card = competition.load("nuclei")
        return read_index(card, Path(data)), card
    from pipeline.demos.salt import make_salt_demo

    card = competition.load("demo")
    root = Path(tempfile.mkdtemp()) / "demo"
    make_salt_demo(root, train=80, test=1)
    return read_index(card, root), card


def ours(index, card):
    torch.manual_seed(0)
    device = hardware.device()
    model = hardware.place(build_model(config.Model(encoder=ENCODER, weights="none")), device).train()
    data = MaskedImages(index, Labels.of(card), Reader(3), Augment(make_recipe("medium", CROP, 3)))
    for position in range(len(data)):
        data[position, 0]  # fills the memory like a first epoch
    loader = Loader(data, BATCH, sampler=EpochSampler(len(data), 0, labels=None, repeats=1), drop_last=True)
    loop = training_loop(model, lambda updates: islice(on_device(loader, device), updates), "auto", 1e-3)
    return partial(loop, BATCHES)


class PlainImages(Dataset):
    """Opens, decodes, augments and normalises an image at each access, as a plain script does."""

    def __init__(self, index, card):
        self.samples, self.card = samples_of(index), card
        self.augment = Augment(make_recipe("medium", CROP, 3))

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, position):
        sample = self.samples[position]
        seed = np.random.randint(2**31)
        image, mask = self.augment(Reader(3).read(sample), Labels.of(self.card).read(sample), seed)
        image = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        return torch.from_numpy(image.transpose(2, 0, 1)).float(), torch.from_numpy(
            mask.transpose(2, 0, 1).copy()
        ).float()


def plain(index, card):
    torch.manual_seed(0)
    on = hardware.device()
    model = smp.Unet(ENCODER, encoder_weights=None).to(on).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(PlainImages(index, card), BATCH, shuffle=True, drop_last=True)
    dice = smp.losses.DiceLoss("binary")

    def run():
        for images, target in islice(loader, BATCHES):
            logits, target = model(images.to(on)), target.to(on)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target) + dice(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def step_flops(dtype: torch.dtype) -> int:
    """Floating-point operations of forward and backward of a batch."""
    device = hardware.device()
    model, loss = build_model(config.Model(encoder=ENCODER, weights="none")).to(device), build_loss(MIX)
    images = torch.randint(0, 256, (BATCH, 3, CROP, CROP), dtype=torch.uint8, device=device)
    target = torch.zeros(BATCH, 1, CROP, CROP, device=device)

    def step() -> None:
        with hardware.autocast(device, dtype):
            logits = model(images)
        loss(logits, target).backward()

    return flops_of(step)


# Groups of operations by the beginning of their names; the first match counts.
PARTS = (
    ("convolutions forward", ("aten::mkldnn_convolution", "aten::cudnn_convolution", "aten::_slow_conv2d_forward")),
    ("convolutions backward", ("aten::convolution_backward", "aten::mkldnn_convolution_backward")),
    ("batch norms", ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::_batch_norm")),
    ("casts and copies", ("aten::copy_", "aten::_to_copy", "aten::to")),
    ("optimizer, clipping, averaged weights", ("aten::_fused_adamw", "aten::_foreach", "aten::lerp", "Optimizer")),
    ("augmentation, reading (Python)", ("enumerate(DataLoader)",)),
)
REST = "activations, upsampling, pooling, losses, Python"


def time_shares(run) -> list[tuple[str, float]]:
    """Shares of the time of a call by group of operations, largest first."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiled:
        run()
    spent = Counter()
    for event in profiled.key_averages():
        on_device = getattr(event, "self_device_time_total", 0)
        spent[_part(event.key)] += on_device if torch.cuda.is_available() else event.self_cpu_time_total
    return [(part, seconds / spent.total()) for part, seconds in spent.most_common()]


def _part(name: str) -> str:
    return next((part for part, names in PARTS if name.startswith(names)), REST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("DATA"))
    index, card = read(parser.parse_args().data)
    run = ours(index, card)
    seconds = interleave({"ours": run, "plain": plain(index, card)}, ROUNDS)
    speed = {name: [BATCH * BATCHES / value for value in values] for name, values in seconds.items()}
    title = f"{card.name}, {CROP}×{CROP}, {torch.get_num_threads()} threads"
    table = Table("script", "images per second (range)", "ours / plain, per round", "share of peak", title=title)
    for name, dtype in (("ours", hardware.precision("auto", hardware.device())), ("plain", torch.float32)):
        flops, peak = step_flops(dtype) * BATCHES, matrix_peak(hardware.device(), dtype)
        table.add_row(
            f"{name} ({str(dtype).removeprefix('torch.')})",
            spread(speed[name]),
            spread(ratios(seconds, "plain", "ours"), "x") if name == "ours" else "",
            f"{np.median([flops / each / peak for each in seconds[name]]):.0%} of {peak / 1e9:.0f} GFLOP/s",
        )
    console = Console(width=110)
    console.print(table)
    console.print("share of time in our loop:")
    for part, share in time_shares(run):
        console.print(f"  {share:5.1%}  {part}")


if __name__ == "__main__":
    main()
