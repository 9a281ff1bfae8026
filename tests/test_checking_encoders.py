"""`encoders --check`: random encoders train for a step and predict, in every architecture that they are listed for."""

import csv
import gc
import os
import platform
import random
import weakref
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.models import ARCHITECTURES, build_model, encoder
from pipeline.stages import checking_encoders
from pipeline.stages.checking_encoders import check_encoders, step_in_backward

RESULTS = "reports/encoders_checked.csv"


def read() -> list[dict[str, str]]:
    return list(csv.DictReader(Path(RESULTS).read_text().splitlines()))


@pytest.fixture
def tried(tmp_path, monkeypatch) -> list[tuple[str, str]]:
    """What is run, in a fresh folder: nothing is, and encoders in `fpn` fail."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def run(cfg):
        calls.append((cfg.model.encoder, cfg.model.arch))
        if cfg.model.arch == "fpn":
            raise RuntimeError("no such size")

    monkeypatch.setattr(checking_encoders, "run_once", run)
    monkeypatch.setattr(checking_encoders, "check_model", lambda _model: None)
    monkeypatch.setattr(checking_encoders, "memory_needed", lambda _cfg: 1.0)
    return calls


def test_each_architecture_of_an_encoder_is_tried_once_and_a_failure_has_its_reason(tried, capsys):
    assert main(["encoders", "tu-test_resnet", "--check", "3"]) == 1
    expected = [arch for arch in ARCHITECTURES if ARCHITECTURES[arch].requires in ("unet", "fcn", "deeplabv3")]
    assert tried == [("tu-test_resnet", arch) for arch in expected]
    assert {row["arch"]: row["reason"] for row in read() if row["result"] == "failed"} == {
        "fpn": "RuntimeError: no such size"
    }
    assert "failed      tu-test_resnet in fpn: RuntimeError: no such size" in capsys.readouterr().out
    tried.clear()
    assert main(["encoders", "tu-test_resnet", "--check", "3"]) == 1, "the failure is kept"
    assert tried == []


def test_the_draw_depends_on_the_seed_and_small_encoders_come_first(tried):
    names = [row.name for row in encoder.known().values()]
    drawn = [
        list(dict.fromkeys(each.encoder for each in check_encoders(names, 5, seed=seed, path=Path(RESULTS), memory=0)))
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    sizes = [encoder.known()[name].parameters for name in drawn[0]]
    assert sizes == sorted(sizes)
    assert tried == []


def test_an_encoder_above_the_memory_is_not_checked_until_there_is_more(tried):
    assert main(["encoders", "tu-test_vit2", "--check", "1", "--memory", "0"]) == 0
    assert {row["result"] for row in read()} == {"not checked"}
    assert main(["encoders", "tu-test_vit2", "--check", "1"]) == 1
    assert {row["result"] for row in read()} == {"passed", "failed"}


def test_the_memory_is_that_of_the_network_as_decoders_of_wide_encoders_are_larger_than_these(tmp_path):
    """ResNetV2-50x3: 211 million weights; `manet` has a 3×3 convolution of 6,144 channels alone with 340 million."""
    path = tmp_path / "checked.csv"
    results = check_encoders(["tu-resnetv2_50x3_bit"], 1, seed=0, path=path, memory=0)
    reasons = {each.arch: each.reason for each in results}
    assert {each.result for each in results} == {"not checked"}
    assert reasons["fcn32s"] == "needs about 2.6 GiB"
    assert reasons["manet"] == "needs about 10.5 GiB"


@pytest.mark.parametrize(
    ("name", "message"),
    [("bad.csv", "bad.csv: not a CSV of results, whose columns are encoder, arch,"), (".", "--results: . is a folder")],
)
def test_results_of_another_kind_are_refused_before_anything_is_run(tried, capsys, name, message):
    Path("bad.csv").write_text("a,b\n1,2\n")
    assert main(["encoders", "tu-test_resnet", "--check", "1", "--results", name]) == 2
    assert message in capsys.readouterr().err
    assert tried == []


def small_network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


def test_a_step_in_the_backward_pass_is_that_of_sgd_and_keeps_no_gradient():
    stepped_in_backward, expected, images = small_network(), small_network(), torch.rand(5, 3)
    expected(images).square().sum().backward()
    norms = sorted(weight.grad.norm().item() for weight in expected.parameters())
    clip = norms[1]  # so that two are larger, and one is smaller
    for weight in expected.parameters():
        torch.nn.utils.clip_grad_norm_(weight, clip)
    torch.optim.SGD(expected.parameters(), lr=1e-3).step()

    with step_in_backward(stepped_in_backward, clip) as stepped:
        stepped_in_backward(images).square().sum().backward()
    assert stepped == set(stepped_in_backward.parameters())
    for weight, right in zip(stepped_in_backward.parameters(), expected.parameters(), strict=True):
        assert weight.grad is None
        torch.testing.assert_close(weight, right)


def test_only_weights_that_have_a_gradient_step():
    network = small_network()
    network[0].bias.requires_grad_(False)
    with step_in_backward(network, clip=1.0) as stepped:
        network[0](torch.rand(5, 3)).sum().backward()
    assert stepped == {network[0].weight}


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_refused(wrong):
    layer = torch.nn.Linear(3, 1)
    with step_in_backward(layer, clip=1.0), pytest.raises(ArithmeticError, match="a gradient is not finite"):
        (layer(torch.ones(5, 3)).sum() * wrong).backward()


def test_a_network_that_took_a_step_is_freed(monkeypatch):
    made = []

    def build(cfg):
        network = build_model(cfg)
        made.append(weakref.ref(next(network.parameters())))
        return network

    monkeypatch.setattr(checking_encoders, "build_model", build)
    checking_encoders.run_once(checking_encoders._config(encoder.known()["tu-test_resnet"], "unet"))
    gc.collect()
    assert [weight() for weight in made] == [None]


class Network:
    pass


def test_a_failed_network_is_freed_before_the_next_and_a_collection_skips_what_was_imported(tried, monkeypatch):
    living, frozen = weakref.WeakSet(), []

    def run(_cfg):
        frozen.append(gc.get_freeze_count())
        assert not living, "the network of the call before"
        network, error = Network(), RuntimeError("no such size")
        living.add(network)
        raise error  # its traceback has this frame, and this frame has the error

    gc.disable()  # so that nothing else frees the cycle
    try:
        monkeypatch.setattr(checking_encoders, "run_once", run)
        results = check_encoders(["tu-test_resnet"], 1, seed=0, path=Path(RESULTS), memory=8)
    finally:
        gc.enable()
    assert {each.reason for each in results} == {"RuntimeError: no such size"}
    assert min(frozen) > 100_000
    assert gc.get_freeze_count() == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps freed memory")
def test_freed_memory_goes_back_to_the_system(tried, monkeypatch):
    """Networks that are gone must not be beside the next: `--memory` is what one network needs."""
    kept = []

    def run(_cfg):
        blocks = [b"x" * 100_000 for _ in range(2_000)]
        kept.append(b"x" * 100_000)  # at the top of the heap, so that free() gives nothing back
        del blocks

    monkeypatch.setattr(checking_encoders, "run_once", run)
    before = resident()
    check_encoders(["tu-test_resnet"], 1, seed=0, path=Path(RESULTS), memory=8)
    assert len(kept) > 1
    assert resident() - before < 100_000_000


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_40_random_encoders_of_at_most_15_million_parameters_pass(part, tmp_path):
    """Small ones, for the time; docs/encoders_checked.csv has all that were checked so far."""
    names = [row.name for row in encoder.known().values() if row.parameters <= 15]
    drawn = random.Random(1).sample(sorted(names), 40)[10 * part : 10 * (part + 1)]
    found = check_encoders(drawn, 10, seed=0, path=tmp_path / "checked.csv", memory=4)
    assert {each.encoder for each in found} == set(drawn)
    assert not [each for each in found if each.result in ("failed", "not checked")]
