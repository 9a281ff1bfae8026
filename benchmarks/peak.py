"""Share of peak performance: the peak of the machine in matrix products, and the operations of a network.

The other benchmarks import this file (`from peak import matrix_peak, flops_of`).
"""

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}  # sides of square matrices
ROUNDS = 6


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of the fastest of several large matrix products of random values."""
    return max(2 * side**3 / _seconds(side, device, dtype) for side in SIDES[device.type])


def _seconds(side: int, device: torch.device, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return best_of(lambda: left @ right, device, ROUNDS)


def best_of(run: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Seconds of the fastest round, after one untimed round; waits for a GPU."""
    seconds = []
    for _ in range(rounds + 1):
        begin = perf_counter()
        run()
        wait_for(device)
        seconds.append(perf_counter() - begin)
    return min(seconds[1:])


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of(run: Callable[[], object]) -> int:
    """Floating-point operations of a call's convolutions and matrix products; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def forward_flops(model: torch.nn.Module, images: Tensor) -> int:
    """Floating-point operations of one forward pass."""
    with torch.inference_mode():
        return flops_of(lambda: model(images))
