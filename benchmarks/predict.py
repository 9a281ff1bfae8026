"""From test images to a CSV with five folds and eight TTA views: single-pass bundle inference against a plain script.

    python benchmarks/predict.py --data /path/to/nuclei [--run runs/nuclei] [--rounds 3] [--backends fuse_conv_bn]

    ours    each image is read once for all folds and views; batch norms are fused, channels last, the fastest precision
            of this machine; masks are encoded as RLE while the next image is predicted
    plain   five smp.Unet, float32, ttach's D4, a DataLoader and a loop, a numpy snippet for RLE

Both have the same five networks, images, percentile normalization and threshold .5, and write the same rows. Rounds
alternate in one process, each from files to CSV; ratios are within a round. Without --run the networks have random
weights: the computation is the same, but the masks are noise.

The share of peak is the number of operations of the convolutions (the same count for both, padding included) per
second, over that of the largest matrix products on this machine with the same threads and precision. With --run, the
masks of every backend on held-out images are compared with those of eager float32, pixel by pixel, and scored.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import ttach
import typer
from interleave import interleave, ratios, spread
from peak import forward_flops, matrix_peak
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import competition, config, folds, hardware, manifest  # noqa: E402
from pipeline.config import Config  # noqa: E402
from pipeline.data.index import read_index  # noqa: E402
from pipeline.data.labels import Labels  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.sample import samples_of  # noqa: E402
from pipeline.ensemble.renderer import Postprocess, Renderer  # noqa: E402
from pipeline.ensemble.serialization import to_record  # noqa: E402
from pipeline.inference.predictor import Predictor  # noqa: E402
from pipeline.models import build_model  # noqa: E402
from pipeline.postprocess.rules import Rules  # noqa: E402
from pipeline.serving.bundle import (  # noqa: E402
    Bundle,
    BundleRecord,
    Evaluation,
    Provenance,
    read_bundle,
    weights_name,
    write_bundle,
)
from pipeline.serving.bundle_prediction import predict_test  # noqa: E402
from pipeline.symmetries import SYMMETRIES  # noqa: E402
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402

NAME, FOLDS, THRESHOLD = "nuclei", range(5), 0.5
KEY, TEXT = "ImageId", "EncodedPixels"  # columns of the CSV
STRIDE = 32  # of the encoder: sides are padded to a multiple of it
err = Console(stderr=True)


def config_with(backend: str) -> Config:
    """The config of nuclei with all eight views and a backend."""
    cfg = config.load(ROOT / "configs" / f"{NAME}.toml")
    return cfg.model_copy(
        update={"predict": cfg.predict.model_copy(update={"views": tuple(SYMMETRIES), "backend": backend})}
    )


def subset_test_images(data: Path, every: int, folder: Path) -> Path:
    """A folder with every n-th test image."""
    sample = pd.read_csv(data / "sample_submission.csv", dtype=str, keep_default_na=False)[::every]
    files = {path.stem: path for path in (data / "test").rglob("*.png")}
    images = folder / competition.load(NAME).files.test_images
    images.mkdir(parents=True)
    for image_id in sample[KEY]:
        (images / files[image_id].name).symlink_to(files[image_id].resolve())
    sample.to_csv(folder / "sample_submission.csv", index=False)
    return folder


def weights_of(run: Path | None, cfg: Config, folder: Path) -> dict[int, Path]:
    """A checkpoint of each fold: of a run, or with random weights."""
    if run:
        return {fold: run / f"fold{fold}" / "best.safetensors" for fold in FOLDS}
    paths = {}
    for fold in FOLDS:
        torch.manual_seed(fold)
        paths[fold] = folder / f"random{fold}.safetensors"
        save_checkpoint(paths[fold], build_model(cfg.model).state_dict(), {"fold": fold})
    return paths


# ---------------------------------------------------------------------------------------------- ours


def bundle_of(cfg: Config, weights: dict[int, Path], folder: Path) -> Bundle:
    """The five models as one bundle with threshold .5."""
    renderer = Renderer((Postprocess("mean", (1.0,), "total", Rules(THRESHOLD, 0)),))
    card = competition.load(NAME)
    record = BundleRecord(
        name=NAME,
        configs={NAME: cfg.model_dump(mode="json", exclude={"name"}, by_alias=True, exclude_none=True)},
        weights={NAME: {str(fold): weights_name(NAME, fold) for fold in FOLDS}},
        chosen=to_record(renderer, [NAME], card.classes),
        evaluation=Evaluation(metric=card.metric, score=0.0, interval=(0.0, 0.0)),
        provenance=Provenance(made="benchmark", versions=manifest.collect_provenance()["versions"]),
    )
    write_bundle(folder, record, competition.card_path(NAME), {(NAME, fold): path for fold, path in weights.items()})
    return read_bundle(folder)


def ours(bundle: Bundle, backend: str, data: Path, csv: Path) -> Callable[[], object]:
    """A pass over the test set with loaded models: loading takes the same time for both."""
    models = {fold: predictor_of(bundle, backend, fold) for fold in FOLDS}
    return lambda: predict_test(bundle, data, csv, load=lambda _, fold: models[fold])


def predictor_of(bundle: Bundle, backend: str, fold: int) -> Predictor:
    cfg = config_with(backend)
    model = build_model(cfg.model)
    load_checkpoint(bundle.weights(NAME, fold), model, fold)
    return Predictor.from_config(model, cfg, exclusive=False)


# ---------------------------------------------------------------------------------------------- the plain script


class LoadedImages(Dataset):
    """Opens, normalises and pads an image, as a plain script does."""

    def __init__(self, paths: Sequence[Path], mean: np.ndarray, std: np.ndarray):
        self.paths, self.mean, self.std = paths, mean, std

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> tuple[str, torch.Tensor, tuple[int, int]]:
        path = self.paths[position]
        image = np.asarray(Image.open(path).convert("RGB")).astype(np.float32)
        low, high = np.percentile(image, (1, 99.8))
        image = (np.clip((image - low) / (high - low), 0, 1) - self.mean) / self.std
        height, width = image.shape[:2]
        rows, columns = -height % STRIDE, -width % STRIDE
        ends = ((rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2), (0, 0))
        padded = np.pad(image, ends, mode="reflect")
        return path.stem, torch.from_numpy(padded.transpose(2, 0, 1)).float(), (height, width)


def plain(cfg: Config, weights: dict[int, Path], data: Path, csv: Path) -> Callable[[], object]:
    """The plain script, with loaded models."""
    device = hardware.device()
    models = [plain_model(cfg, path, fold).to(device) for fold, path in weights.items()]
    views = [ttach.SegmentationTTAWrapper(model, ttach.aliases.d4_transform(), merge_mode="mean") for model in models]
    mean, std = (np.array(value) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ids = pd.read_csv(data / "sample_submission.csv", dtype=str)[KEY]
    files = {path.stem: path for path in (data / "test").rglob("*.png")}

    def run() -> None:
        rows = []
        with torch.no_grad():
            for (name,), images, (height, width) in DataLoader(LoadedImages([files[each] for each in ids], mean, std)):
                probs = torch.stack([model(images.to(device)) for model in views]).mean(0)[0, 0].cpu().numpy()
                top, left = (probs.shape[0] - height) // 2, (probs.shape[1] - width) // 2
                mask = probs[top : top + height, left : left + width] > THRESHOLD
                rows.append((name, snippet(mask.squeeze())))
        pd.DataFrame(rows, columns=[KEY, TEXT]).to_csv(csv, index=False)

    return run


def plain_model(cfg: Config, path: Path, fold: int) -> torch.nn.Module:
    """The smp network with the weights of ours, which has it as `net`."""
    model = build_model(cfg.model)
    load_checkpoint(path, model, fold)
    own = {name.removeprefix("net."): values for name, values in model.state_dict().items() if name.startswith("net.")}
    net = smp.Unet(
        cfg.model.encoder,
        encoder_weights=None,
        decoder_channels=cfg.model.decoder_channels,
        activation="sigmoid",
    )
    net.load_state_dict(own)
    return net.eval()


def snippet(mask: np.ndarray) -> str:
    """The RLE function of most public kernels."""
    pixels = np.concatenate([[0], mask.flatten(order="F"), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


# ---------------------------------------------------------------------------------------------- tables


def speed(seconds: dict[str, list[float]], flops: float, images: int, cfg: Config) -> Table:
    """Images per second, ratios and shares of peak."""
    device = hardware.device()
    dtypes = {True: torch.float32, False: hardware.precision(cfg.train.precision, device)}
    table = Table("script", "images per second", "plain / this, per round", "share of peak", "of", width=108)
    for name, values in seconds.items():
        dtype = dtypes[name == "plain"]
        peak = matrix_peak(device, dtype)
        share = [flops / each / peak for each in values]
        table.add_row(
            name,
            spread([images / each for each in values]),
            spread(ratios(seconds, "plain", name), "x") if name != "plain" else "",
            f"{100 * float(np.median(share)):.0f} %",
            f"{peak / 1e9:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}",
        )
    return table


def total_flops(cfg: Config, data: Path) -> tuple[float, int]:
    """Floating-point operations of all passes over the test set, and the number of its images."""
    model, total = build_model(cfg.model).eval(), 0
    paths = list((data / "test").rglob("*.png"))
    for path in paths:
        with Image.open(path) as image:
            width, height = image.size
        # On the meta device nothing is computed; a transposed view has as many operations.
        total += forward_flops(model.to("meta"), torch.empty(1, 3, height, width, device="meta"))
    return total * len(FOLDS) * len(SYMMETRIES), len(paths)


def differing(one: Path, other: Path, data: Path) -> str:
    """The number of pixels that differ between the masks of two CSVs."""
    tables = [pd.read_csv(path, dtype=str, keep_default_na=False).set_index(KEY)[TEXT] for path in (one, other)]
    dialect, off, total = competition.load(NAME).dialect, 0, 0
    for path in (data / "test").rglob("*.png"):
        with Image.open(path) as image:
            shape = image.size[::-1]
        first, second = (dialect.decode(table[path.stem], shape) for table in tables)
        off, total = off + int((first != second).sum()), total + first.size
    return f"{off} of {total:,} pixels differ, {1e4 * off / total:.2f} in 10,000"


def out_of_fold(run: Path, data: Path, backends: Sequence[str], every: int) -> Table:
    """Masks of the backends on held-out images, compared with eager float32; views as configured."""
    card, cfg = competition.load(NAME), config.load(ROOT / "configs" / f"{NAME}.toml")
    index = read_index(card, data)
    table = folds.read_folds(ROOT / "folds" / f"{NAME}.csv", index)
    reader, labels = Reader.of(cfg, card), Labels.of(card)
    variants = [
        ("eager", "float32"),
        *((backend, precision) for backend in backends for precision in ("float32", "auto")),
    ]
    differ, pixels, scores = dict.fromkeys(variants, 0), 0, {each: [] for each in variants}
    for fold in FOLDS:
        runs = {variant: _variant(cfg, run, fold, *variant) for variant in variants}
        held_out = samples_of(folds.hold_out(index, table, fold)[1][::every])
        for sample in track(held_out, f"fold {fold}", console=err):
            image = torch.from_numpy(reader.read(sample)).permute(2, 0, 1)[None]
            target = labels.read(sample)[..., 0]
            masks = {variant: predict(image)[0, 0].numpy() > THRESHOLD for variant, predict in runs.items()}
            pixels += target.size
            for variant, mask in masks.items():
                differ[variant] += int((mask != masks[variants[0]]).sum())
                both, total = int((mask & (target == 1)).sum()), int(mask.sum() + (target == 1).sum())
                scores[variant].append(2 * both / total if total else 1.0)
    found = Table(
        "backend",
        "precision",
        "pixels that differ from eager float32",
        "mean Dice at .5",
        "difference to eager",
        width=108,
    )
    for variant in variants:
        gap = np.mean(scores[variant]) - np.mean(scores[variants[0]])
        found.add_row(
            *variant,
            f"{1e4 * differ[variant] / pixels:.2f} in 10,000",
            f"{np.mean(scores[variant]):.5f}",
            f"{gap:+.5f}",
        )
    return found


def _variant(cfg: Config, run: Path, fold: int, backend: str, precision: str) -> Predictor:
    model = build_model(cfg.model)
    load_checkpoint(run / f"fold{fold}" / "best.safetensors", model, fold)
    return Predictor(model, cfg.predict.views, precision, backend=backend)


def main(
    data: Annotated[Path, typer.Option(help="the folder of nuclei", envvar="DATA")],
    run: Annotated[Path | None, typer.Option(help="a trained run; default: random weights")] = None,
    rounds: Annotated[int, typer.Option(help="timed rounds")] = 3,
    backends: Annotated[str, typer.Option(help="names, separated by commas")] = "fuse_conv_bn",
    every: Annotated[int, typer.Option(help="1: all images; 6: every sixth image")] = 1,
    oof: Annotated[bool, typer.Option(help="with --run: also compare the backends' masks out of fold")] = True,
) -> None:
    console, names = Console(width=110), backends.split(",")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = config_with(names[0])
        weights = weights_of(run, cfg, folder)
        bundle, whole_data = bundle_of(cfg, weights, folder / "bundle"), data
        data = subset_test_images(data, every, folder / "data")
        functions = {backend: ours(bundle, backend, data, folder / f"{backend}.csv") for backend in names}
        functions["plain"] = plain(cfg, weights, data, folder / "plain.csv")
        seconds = interleave(functions, rounds)
        flops, images = total_flops(cfg, data)
        console.print(
            f"{images} images, {len(FOLDS)} folds, {len(SYMMETRIES)} views, {torch.get_num_threads()} threads"
        )
        console.print(speed(seconds, flops, images, cfg))
        for backend in names:
            console.print(f"{backend}: {differing(folder / f'{backend}.csv', folder / 'plain.csv', data)} from plain")
    if run and oof:
        console.print(out_of_fold(run, whole_data, names, every))


if __name__ == "__main__":
    typer.run(main)
