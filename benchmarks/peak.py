"""The two sides of a share of peak: what the machine can multiply at most, and what a network asks it to.

This file is imported by the benchmarks next to it (`from peak import matrix_peak, flops_of`).
"""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # of square matrices
ROUNDS = 6


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of some large matrix products, of random values."""
    return max(2 * side**3 / _seconds(side, device, dtype) for side in SIDES[device.type])


def _seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return best_of(lambda: left @ right, device, ROUNDS)


def best_of(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds of the fastest round, after one that warms up; a GPU is waited for."""
    seconds = []
    for _ in range(rounds + 1):
        begin = perf_counter()
        run()
        wait_for(device)
        seconds.append(perf_counter() - begin)
    return min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of a call's convolutions and matrix products; to multiply and to add are two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def forward_flops(model: torch.nn.Module, images: Tensor) -> int:
    """Those of one forward pass."""
    with torch.inference_mode():
        return flops_of(lambda: model(images))
