"""Mutated configs and cards."""

from functools import cache
from pathlib import Path

import numpy as np

from pipeline import competition, config
from pipeline.stages.preparing import check

PROJECT = Path(__file__).parent.parent
ODD_VALUES = [
    "-1", "0", "0.1", "1", "2147483648", "99999999999999999999", "1e30", "-1e400", "nan", "inf", "true", "1979-05-27",
    '""', '"none"', '"[/x]"', '"$\\\\frac$"', '"\\u0000"', '"../../x"', f'"{"x" * 5000}"',
    "[]", "[[]]", "[0, 0]", "[100, 1]", "[1, 2, 3]", '["identity", "identity"]', "[" * 50 + "]" * 50,
    "{}", "{ a = { b = { c = 1 } } }",
]  # fmt: skip


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """Kind ("config" or "card") and text of every shipped file."""
    configs = sorted((PROJECT / "configs").glob("*.toml"))
    cards = [*sorted((PROJECT / "pipeline" / "competitions").glob("*.toml")), PROJECT / "docs" / "card.toml"]
    return tuple(
        (kind, path.read_text(encoding="utf-8"))
        for kind, paths in (("config", configs), ("card", cards))
        for path in paths
    )


def fuzz_toml(rng: np.random.Generator, folder: Path) -> str:
    """A shipped file with one to three mutations; a config that loads is checked as in every stage."""
    kind, text = texts()[rng.integers(len(texts()))]
    data = text.encode()
    for _ in range(rng.integers(1, 4)):
        data = MUTATIONS[rng.integers(len(MUTATIONS))](rng, data)
    path = folder / "mutated.toml"
    path.write_bytes(data)
    if kind == "config":
        check(config.load(path))
    else:
        competition.load(str(path))
    return "read"


def _odd_value(rng: np.random.Generator, data: bytes) -> bytes:
    """Another value after one of the equals signs."""
    lines = data.decode(errors="replace").splitlines()
    places = [number for number, line in enumerate(lines) if "=" in line and not line.lstrip().startswith("#")]
    if not places:
        return data
    place = rng.choice(places)
    key = lines[place].partition("=")[0].lstrip("# ")
    lines[place] = f"{key}= {rng.choice(np.array(ODD_VALUES, dtype=object))}"
    return "\n".join(lines).encode()


def _enabled(rng: np.random.Generator, data: bytes) -> bytes:
    """A commented line is enabled."""
    lines = data.decode(errors="replace").splitlines()
    places = [number for number, line in enumerate(lines) if line.startswith("# ") and ("=" in line or "[" in line)]
    if places:
        place = rng.choice(places)
        lines[place] = lines[place].removeprefix("# ")
    return "\n".join(lines).encode()


def _misspelt(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.decode(errors="replace").splitlines()
    place = rng.integers(len(lines)) if lines else 0
    if lines and lines[place]:
        at = rng.integers(len(lines[place]))
        lines[place] = lines[place][:at] + lines[place][at + 1 :]
    return "\n".join(lines).encode()


def _other_line(rng: np.random.Generator, data: bytes) -> bytes:
    """A line of any shipped file is inserted."""
    donor = texts()[rng.integers(len(texts()))][1].splitlines()
    lines = data.decode(errors="replace").splitlines()
    lines.insert(rng.integers(len(lines) + 1), donor[rng.integers(len(donor))])
    return "\n".join(lines).encode()


def _without_line(rng: np.random.Generator, data: bytes) -> bytes:
    lines = data.splitlines()
    if lines:
        del lines[rng.integers(len(lines))]
    return b"\n".join(lines)


def _truncated(rng: np.random.Generator, data: bytes) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def _other_byte(rng: np.random.Generator, data: bytes) -> bytes:
    if not data:
        return data
    at = rng.integers(len(data))
    return data[:at] + bytes([rng.integers(256)]) + data[at + 1 :]


MUTATIONS = [
    _odd_value,
    _odd_value,
    _odd_value,
    _enabled,
    _misspelt,
    _other_line,
    _without_line,
    _truncated,
    _other_byte,
]
