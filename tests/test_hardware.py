"""What a machine does well is told by any torch that is supported."""

import pytest
import torch

from pipeline import hardware


@pytest.mark.parametrize(("flags", "dtype"), [({"avx2", "amx_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)])
def test_a_torch_that_cannot_tell_asks_linux(monkeypatch, flags, dtype):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(hardware, "_linux_flags", lambda: flags)
    assert hardware.precision("auto", torch.device("cpu")) == dtype


def test_a_precision_that_is_set_is_taken():
    assert hardware.precision("float16", torch.device("cpu")) == torch.float16
