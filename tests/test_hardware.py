"""The precision of a machine is found with every supported version of torch."""

import pytest
import torch

from pipeline import hardware


@pytest.mark.parametrize(("flags", "dtype"), [({"avx2", "amx_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)])
def test_auto_precision_reads_linux_cpu_flags_if_torch_does_not_report_them(monkeypatch, flags, dtype):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(hardware, "_linux_flags", lambda: flags)
    assert hardware.precision("auto", torch.device("cpu")) == dtype


def test_explicit_precision_is_used():
    assert hardware.precision("float16", torch.device("cpu")) == torch.float16
