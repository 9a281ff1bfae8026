"""What this machine does well: device, precision, memory format."""

import torch


def device() -> torch.device:
    """The GPU if there is one, else Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def precision(setting: str, on: torch.device) -> torch.dtype:
    """The dtype of the network's arithmetic; losses are float32 whatever it is.

    "auto" is bfloat16 where the hardware has it (CPUs with AVX512-BF16 or AMX, NVIDIA from Ampere on),
    float16 on older NVIDIA GPUs such as Kaggle's T4 and P100, and float32 elsewhere.
    """
    if setting != "auto":
        return getattr(torch, setting)
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(on) >= (8, 0) else torch.float16
    return torch.bfloat16 if on.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Without these instructions bfloat16 is emulated, and slower than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16"))


def autocast(on: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which a network runs in `dtype`."""
    return torch.autocast(on.type, dtype=dtype, enabled=dtype != torch.float32)
