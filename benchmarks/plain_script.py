"""What a competitor writes in an hour, for `auto.py` to compare with.

    OMP_NUM_THREADS=1 python benchmarks/plain_script.py SET_FOLDER --seconds 300 --out submission.csv

smp.Unet with the pipeline's default encoder and the same ImageNet weights, images resized to one size, BCE + Dice
(cross entropy + Dice for exclusive classes), AdamW, batches of 8, flips, float32, a random split of 80 to 20 %, the
epoch with the best score on it, threshold .5 (the most likely class if they are exclusive), connected components for
objects. It reads the files by the card that a person wrote, keeps all images in memory, and trains until its CPU time
is used up, but for the time that the prediction of the test set takes.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.losses import DiceLoss
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from auto_sets import RANGES, AutoSet

from pipeline.competition import Competition
from pipeline.data.channels import Channels, Output
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.metrics import VOID, count, epoch_metric, pixel_metric, stack
from pipeline.models.packaged_weights import packaged_weights
from pipeline.submission import write_submission

ENCODER = "tf_efficientnet_lite0"
MEAN = STD = 127.5  # of its ImageNet weights
BATCH = 8
RATE = 1e-3
LARGEST = 512  # pixels a side
STRIDE = 32  # sides are multiples of it
SLACK = 1.15  # over the measured seconds of a prediction
LAST_SECONDS = 3.0  # of CPU time for the end of the process: the submission's texts

Loss = Callable[[Tensor, Tensor], Tensor]
Clock = Callable[[], float]  # seconds of CPU time of this process


class Images(NamedTuple):
    """Images at one size, and their targets if there are any.

    Shapes:
        pixels: (N, C, H, W) uint8.
        targets: (N, K, H, W) uint8, 0, 1 or VOID; of exclusive classes (N, 1, H, W), numbers or VOID.
    """

    pixels: Tensor
    targets: Tensor | None = None

    def take(self, rows: np.ndarray) -> "Images":
        """Some of the images."""
        return Images(self.pixels[rows], self.targets[rows])


def run(made: AutoSet, out: Path, seconds: float, seed: int = 0, clock: Clock = time.process_time) -> dict[str, Any]:
    """Train, predict the test set and write the submission; returns what was done.

    Args:
        seconds: of CPU time, from the start of the process.
    """
    torch.manual_seed(seed)
    card, rng = made.card, np.random.default_rng(seed)
    reader = make_reader(made.name, card)
    index, test = read_index(card, made.files, grouped=False), samples_of(read_test_index(card, made.files))
    size = common_size(index[["height", "width"]].to_numpy())
    images = load(samples_of(index), reader, size, Labels.of(card))
    order = rng.permutation(len(index))
    held_out = max(1, round(len(index) / 5))
    valid, train = images.take(order[:held_out]), images.take(order[held_out:])
    model = make_model(card, reader.channels)
    end = seconds - LAST_SECONDS - SLACK * _seconds_of_prediction(model, valid, len(test), clock)
    done = fit(model, train, valid, card, rng, end, clock)
    probs = predict(model, load(test, reader, size).pixels, exclusive=card.exclusive)
    masks = {sample.image_id: (sample.size, each) for sample, each in zip(test, probs, strict=True)}
    write_submission(out, card, made.files / card.files.sample_submission, lambda name: render(card, *masks[name]))
    return {**done, "size": list(size), "train_images": len(train.pixels), "valid_images": held_out}


def make_reader(name: str, card: Competition) -> Reader:
    """The reader of a data set: three channels, or one for each file of the card's `channels`."""
    names = card.files.channel_names
    outputs = tuple(Output(each, (number,)) for number, each in enumerate(names)) or None
    channels = Channels(names, card.files.channel_paths, outputs)
    return Reader(len(names) or 3, inputs=channels, **RANGES.get(name, {}))


def common_size(sizes: np.ndarray) -> tuple[int, int]:
    """The median height and width of images (N, 2), shrunk to LARGEST at most, rounded up to multiples of STRIDE."""
    median = np.median(sizes, axis=0)
    median *= min(1, LARGEST / median.max())
    height, width = (STRIDE * math.ceil(side / STRIDE) for side in median)
    return height, width


def load(samples: Sequence[Sample], reader: Reader, size: tuple[int, int], labels: Labels | None = None) -> Images:
    """Read images, and their targets, at one size."""
    pixels = [_resize(np.clip(reader.read(each), 0, 255).astype(np.uint8), size) for each in samples]
    if labels is None:
        return Images(_stack(pixels))
    targets = [_resize(labels.read_mask(each), size, cv2.INTER_NEAREST) for each in samples]
    return Images(_stack(pixels), _stack(targets))


def _resize(image: np.ndarray, size: tuple[int, int], method: int = cv2.INTER_AREA) -> np.ndarray:
    """(H, W, C) at another size."""
    if method == cv2.INTER_AREA and image.shape[0] < size[0]:
        method = cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method).reshape(*size, -1)


def _stack(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def make_model(card: Competition, channels: int) -> nn.Module:
    """A U-Net with ImageNet weights.

    Raises:
        ValueError: if the package with the weights is not installed.
    """
    weights = packaged_weights(ENCODER)
    if weights is None:
        raise ValueError(f"no weights of {ENCODER}: run `make setup`")
    return smp.Unet(
        f"tu-{ENCODER}",
        encoder_weights=True,
        in_channels=channels,
        classes=len(card.classes),
        pretrained_cfg_overlay={"file": str(weights)},
    )


def fit(
    model: nn.Module,
    train: Images,
    valid: Images,
    card: Competition,
    rng: np.random.Generator,
    end: float,
    clock: Clock,
) -> dict[str, Any]:
    """Train until the clock shows `end` with a cosine schedule over that time; the model gets its best epoch's weights.

    Time for the last validation is kept. Without the time for a single batch the model stays as it is.

    Returns:
        the numbers of epochs and steps, and the best score on the validation images.
    """
    loss_of = exclusive_loss if card.exclusive else multilabel_loss
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    begin, validation = clock(), 0.0
    best, best_score, steps, epochs = None, -1.0, 0, 0
    while clock() + validation < end:
        model.train()
        for rows in np.array_split(rng.permutation(len(train.pixels)), math.ceil(len(train.pixels) / BATCH)):
            share = (clock() - begin) / max(end - validation - begin, 1e-9)
            if share >= 1 and steps:
                break
            if len(rows) > 1 or not steps:
                optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * min(share, 1))) / 2
                loss = loss_of(model, *flip(train.take(rows), rng))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                steps += 1
        before = clock()
        found = score(model, valid, card)
        validation, epochs = clock() - before, epochs + 1
        if found > best_score:
            best, best_score = {key: value.clone() for key, value in model.state_dict().items()}, found
    if best:
        model.load_state_dict(best)
    return {"epochs": epochs, "steps": steps, "valid_score": best_score}


def flip(images: Images, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Each image flipped at random along both axes, normalized to float32, and its target."""
    pixels, targets = images.pixels.clone(), images.targets.clone()
    for number in range(len(pixels)):
        axes = [axis for axis in (1, 2) if rng.random() < 0.5]
        pixels[number], targets[number] = pixels[number].flip(axes), targets[number].flip(axes)
    return normalize(pixels), targets


def normalize(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 as the encoder's weights expect them."""
    return (pixels.float() - MEAN) / STD


def multilabel_loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """BCE + Dice."""
    logits, target = model(images), (targets == 1).float()
    return nn.functional.binary_cross_entropy_with_logits(logits, target) + DiceLoss("multilabel")(logits, target)


def exclusive_loss(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy + Dice, without void pixels."""
    logits, target = model(images), targets[:, 0].long()
    dice = DiceLoss("multiclass", ignore_index=VOID)(logits, target)
    return nn.functional.cross_entropy(logits, target, ignore_index=VOID) + dice


@torch.inference_mode()
def predict(model: nn.Module, pixels: Tensor, *, exclusive: bool) -> np.ndarray:
    """Probabilities (N, K, H, W) float16 of images (N, C, H, W) uint8."""
    model.eval()
    probs = []
    for batch in pixels.split(BATCH):
        logits = model(normalize(batch))
        probs.append((logits.softmax(1) if exclusive else logits.sigmoid()).half().numpy())
    return np.concatenate(probs)


def score(model: nn.Module, valid: Images, card: Competition) -> float:
    """The card's metric of the validation images at the network's size; mean Dice if it is one of objects."""
    probs = predict(model, valid.pixels, exclusive=card.exclusive)
    classes = np.arange(len(card.classes))[:, None, None]
    counts = []
    for each, target in zip(probs, valid.targets.numpy(), strict=True):
        masks = to_masks(card, each)
        true = np.where(target == VOID, VOID, target == classes).astype(np.uint8) if card.exclusive else target
        counts.append(stack([count(mask, one) for mask, one in zip(masks, true, strict=True)]))
    found = pixel_metric(epoch_metric(card.metric)).scores(stack(counts)).mean()
    return 0.0 if math.isnan(found) else found


def to_masks(card: Competition, probs: np.ndarray) -> np.ndarray:
    """The mask of each class, (K, H, W) uint8, from its probabilities."""
    if card.exclusive:
        return (probs.argmax(0) == np.arange(len(probs))[:, None, None]).astype(np.uint8)
    return (probs > 0.5).astype(np.uint8)


def render(card: Competition, size: tuple[int, int], probs: np.ndarray) -> np.ndarray:
    """The masks of an image at its size, or the numbers of its objects (H, W)."""
    large = _resize(probs.astype(np.float32).transpose(1, 2, 0), size, cv2.INTER_LINEAR).transpose(2, 0, 1)
    masks = to_masks(card, large)
    return cv2.connectedComponents(masks[0])[1] if card.instances else masks


def _seconds_of_prediction(model: nn.Module, images: Images, count: int, clock: Clock) -> float:
    """The estimated seconds of predicting some images."""
    pixels = images.pixels[:BATCH]
    predict(model, pixels[:1], exclusive=False)  # the first prediction is slower than the others
    before = clock()
    predict(model, pixels, exclusive=False)
    return (clock() - before) * count / len(pixels)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", type=Path, help="folder that auto_sets.make_set wrote, named like the data set")
    parser.add_argument("--seconds", type=float, required=True, help="of CPU time")
    parser.add_argument("--out", type=Path, required=True, help="the submission")
    options = parser.parse_args(argv)
    done = run(AutoSet(options.set.name, options.set), options.out, options.seconds)
    print({**done, "cpu_seconds": round(time.process_time(), 1)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
