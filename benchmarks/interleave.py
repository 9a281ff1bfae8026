"""Timing of several functions in interleaved rounds, so that other load on the machine affects all of them.

The functions are called in the order A, B, C, A, B, C, ..., and times are compared within a round: a slow moment
affects all functions of the round, so their ratio changes less than that of two separate runs.

The other benchmarks import this file (`from interleave import interleave`).
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter


def interleave(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function in each round, after one untimed round that warms the caches.

    Args:
        functions: name to a function without arguments.
        repeats: timed rounds, at least 1.

    Returns:
        name to `repeats` durations, in seconds; the i-th durations of all functions are from one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: expected at least 1 timed round")
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = perf_counter()
            function()
            seconds[name].append(perf_counter() - begin)
    return seconds


def ratios(seconds: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """slow / fast of each round: above 1 if `fast` took less time."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def spread(values: list[float], unit: str = "") -> str:
    """Median and range of the rounds as text: '8.1x (7.7 to 8.6)'."""
    return f"{median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def milliseconds(seconds: list[float]) -> str:
    """Median and range of durations as text: '6.24 ms (6.1 to 7.02)'."""
    return spread([1000 * value for value in seconds], " ms")
