"""Which copies of images can be told from them."""

import numpy as np
import pytest

from pipeline import config, stages
from pipeline.cli import main
from pipeline.stages.symmetries import find_symmetries
from pipeline.statistics.symmetry_probe import SymmetryProbe, advise, histograms, probe_symmetries
from pipeline.symmetries import SYMMETRIES

OTHERS = [name for name in SYMMETRIES if name != "identity"]


def noise(rng, side=64):
    return rng.integers(90, 120, (side, side)).astype(np.float32)


def blob(rng):
    """A bright disc anywhere: no preferred side."""
    image = noise(rng)
    row, column = rng.uniform(8, 56, 2)
    rows, columns = np.ogrid[:64, :64]
    image[(rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(4, 10) ** 2] += 100
    return image


def section(rng):
    """Layers that get darker downwards, tilted to either side: only the mirror image may occur."""
    rows, columns = np.mgrid[:64, :64]
    layers = np.sin((rows + rng.uniform(-0.3, 0.3) * (columns - 31.5)) / rng.uniform(2, 4)) * 30
    return noise(rng) + layers - rows


def wedge(rng):
    """Bright to the left of a line of any direction, and a gradient along it: no copy looks like it."""
    rows, columns = np.mgrid[:64, :64]
    return noise(rng) - 2.0 * columns + 0.7 * rows


def probe(draw, count=120):
    rng = np.random.default_rng(0)
    pictures = [draw(rng)[..., None].clip(0, 255).astype(np.uint8) for _ in range(count)]
    return {each.symmetry: each for each in probe_symmetries(pictures, range(count))}


@pytest.mark.parametrize(
    ("draw", "holding"),
    [(blob, set(OTHERS)), (section, {"flip_horizontal"}), (wedge, set())],
    ids=["blob", "section", "wedge"],
)
def test_the_symmetries_of_generated_images(draw, holding):
    found = probe(draw)
    assert {name for name, each in found.items() if each.holds} == holding
    for name in set(OTHERS) - holding:
        assert found[name].accuracy > 0.9


def test_few_images_give_no_answer():
    assert {each.holds for each in probe(blob, count=8).values()} == {None}


def test_images_of_one_group_are_held_out_together():
    # Each group is one image many times: within a group every copy is known, between groups nothing is.
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 6)
    pictures = [
        each for each in (blob(rng)[..., None].clip(0, 255).astype(np.uint8) for _ in range(30)) for _ in range(6)
    ]
    apart = {each.symmetry: each for each in probe_symmetries(pictures, groups)}
    alone = {each.symmetry: each for each in probe_symmetries(pictures, range(180))}
    assert all(each.holds for each in apart.values())
    assert all(each.accuracy > 0.95 for each in alone.values())


@pytest.mark.parametrize("name", OTHERS)
def test_histograms_of_a_copy_are_those_of_the_image_elsewhere(name):
    square = blob(np.random.default_rng(2))
    copy = histograms(np.ascontiguousarray(SYMMETRIES[name](square)))
    assert np.allclose(np.sort(copy), np.sort(histograms(square)), atol=1e-3)


def test_a_gradient_has_its_direction():
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    shares = histograms(columns)[: 8 * 16].reshape(8, 16)
    assert shares[0].min() > 0.2  # to the right
    assert shares[1:].max() == 0
    assert histograms(rows)[: 8 * 16].reshape(8, 16)[2].min() > 0.2  # down


def of(*holding):
    return [SymmetryProbe(name, 0.5 if name in holding else 1.0, 100) for name in OTHERS]


@pytest.mark.parametrize(
    ("probes", "advice"),
    [
        (of(*OTHERS), "Images look like all their copies: use D4"),
        (of("flip_horizontal"), 'HorizontalFlip (light), and views = ["identity", "flip_horizontal"]'),
        (of("flip_horizontal", "flip_vertical", "rotate_180"), '"flip_vertical"'),
        (of(), "use no flip or rotation"),
        ([SymmetryProbe("transpose", 0.5, 10)], "10 independent images are too few"),
    ],
)
def test_the_advice_follows_from_what_holds(probes, advice):
    assert advice in advise(probes)


def test_images_read_by_window_are_not_probed(tiny):
    cfg = config.load("configs/tiny.toml", ["predict.tiles={size=32,stride=24}"])
    context = stages.make_context(cfg)
    assert find_symmetries(cfg, context.index, context.reader) == []


def test_augment_prints_the_symmetries(tiny, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.stages.augmenting.write_sheet", lambda *_, **__: None)
    assert main(["augment", "configs/tiny.toml"]) == 0
    printed = capsys.readouterr().out
    assert "18 independent images are too few to tell whether they have a preferred side." in printed
    assert "flip_horizontal" in printed
