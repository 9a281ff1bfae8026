"""The precision of a machine is found with every supported version of torch."""

import copy
import ctypes
import os
import sys
import warnings
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import nn

from pipeline import hardware
from pipeline.inference.backends import _fuse_checked
from pipeline.inference.predictor import Predictor


@pytest.mark.parametrize(("flags", "dtype"), [({"avx2", "amx_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)])
def test_auto_precision_reads_linux_cpu_flags_if_torch_does_not_report_them(monkeypatch, flags, dtype):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(hardware, "_linux_flags", lambda: flags)
    assert hardware.precision("auto", torch.device("cpu")) == dtype


def test_explicit_precision_is_used():
    assert hardware.precision("float16", torch.device("cpu")) == torch.float16


def test_tf32_is_a_precision_and_float32_is_without_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert hardware.precision("tf32", torch.device("cpu")) == torch.float32
    for precision, enabled in (("float32", False), ("tf32", True), ("bfloat16", False)):
        Predictor(nn.Conv2d(1, 1, 1), ("identity",), precision)
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == enabled
    hardware.set_tf32(False)


def test_fused_batch_norms_are_compared_without_tf32(monkeypatch):
    # cuDNN's TF32 changes logits by 2e-3: on an A100 the fused network was refused.
    seen = []

    class Watched(nn.Conv2d):
        def forward(self, images):
            seen.append(torch.backends.cudnn.allow_tf32)
            return super().forward(images.float())

    model = nn.Sequential(Watched(1, 1, 1))
    model.mean = torch.zeros(1, 1, 1, 1)
    hardware.set_tf32(True)
    _fuse_checked(model.eval(), torch.float32)
    assert seen
    assert not any(seen[-2:]), "the two forward passes that are compared"
    assert torch.backends.cudnn.allow_tf32
    hardware.set_tf32(False)


@pytest.mark.parametrize(
    ("setting", "gpu", "cores", "processes", "expected"),
    [
        (None, False, 16, 1, 0),
        (None, True, 16, 1, 8),
        (None, True, 4, 1, 3),
        (None, True, 4, 2, 1),
        (None, True, 1, 1, 0),
        (0, True, 16, 1, 0),
        (5, False, 2, 1, 5),
    ],
)
def test_number_of_workers(monkeypatch, setting, gpu, cores, processes, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert hardware.num_workers(setting) == expected


def test_an_old_driver_is_reported_once_in_one_line(monkeypatch, caplog):
    def is_available():
        warnings.warn("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    for _ in range(3):
        assert hardware.device().type != "cuda"
    (line,) = [line for line in caplog.messages if "GPU" in line]
    assert line == "GPU not used: The NVIDIA driver on your system is too old (found version 11040). Update it"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_is_kept_up_to_a_share_of_the_machines(monkeypatch):
    calls = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *args: calls.append(args) or 1))
    for total in (64 << 30, 4 << 30):
        monkeypatch.setattr(psutil, "virtual_memory", lambda total=total: SimpleNamespace(total=total))
        hardware.keep_freed_memory.__wrapped__()
    assert calls == [(-3, 1 << 30), (-1, 1 << 30), (-3, 1 << 28), (-1, 1 << 28)]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_an_older_glibc_that_refuses_a_high_threshold_gets_its_highest(monkeypatch):
    set_to = {}

    def mallopt(option, value):
        accepted = option == -1 or value <= 32 << 20
        set_to.update({option: value} if accepted else {})
        return int(accepted)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=64 << 30))
    hardware.keep_freed_memory.__wrapped__()
    assert set_to == {-3: 32 << 20, -1: 1 << 30}


def test_without_glibc_nothing_is_set(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    hardware.keep_freed_memory.__wrapped__()


def test_weights_of_four_dimensions_are_placed_in_channels_last_format_and_others_as_they_are():
    """The lambda layers of timm have a convolution of three dimensions, which `nn.Module.to` refuses in that format."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(4, 4))
    expected = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="rank 4"):
        copy.deepcopy(model).to(memory_format=torch.channels_last)
    assert hardware.place(model, torch.device("cpu")) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous()
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
