"""Timing of contestants in turns, so that what disturbs the machine disturbs all of them.

Run A, B, C, A, B, C, ... and compare within a round: a slow second of the machine falls on all
contestants of that round, and the ratio survives it where a ratio of two separate runs would not.

This file is imported by the benchmarks next to it (`from interleave import interleave`).
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter


def interleave(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one untimed round that warms the caches.

    Args:
        contestants: name to a function without arguments.
        repeats: timed rounds, at least 1.

    Returns:
        name to `repeats` durations, in seconds; the i-th of every contestant are from one round.
    """
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}: expected at least 1 timed round")
    for contestant in contestants.values():
        contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            begin = perf_counter()
            contestant()
            seconds[name].append(perf_counter() - begin)
    return seconds


def ratios(seconds: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """slow / fast, round by round: above 1 where `fast` was the faster one."""
    return [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]


def spread(values: list[float], unit: str = "") -> str:
    """Median and range of the rounds as text: '8.1x (7.7 to 8.6)'."""
    return f"{median(values):.3g}{unit} ({min(values):.3g} to {max(values):.3g})"


def milliseconds(seconds: list[float]) -> str:
    """Median and range of durations as text: '6.24 ms (6.1 to 7.02)'."""
    return spread([1000 * value for value in seconds], " ms")
