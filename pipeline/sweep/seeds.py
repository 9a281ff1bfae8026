"""Writes copies of a config with other seeds, so that each seed is a config that an ensemble can name."""

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.files import atomic_write
from pipeline.schema import read_toml

log = logging.getLogger(__name__)

HEADER = """\
# {base}.toml with another seed, written by make sweep. Do not edit: all other values must equal those of {base}.toml.
#
#   make ensemble CONFIGS="{base} {name}"
#
seed = {seed}
"""
SEED_OR_NAME = re.compile(r"""\s*["']?(seed|name)["']?\s*=""")  # lines that are not copied


def config_with_seed(path: Path, seed: int) -> Path:
    """Return the config that differs only in its seed: the file itself if it has that seed, else a copy in its folder.

    Writes: configs/<config>_seed<seed>.toml, if it is missing

    Raises:
        ValueError: if that file exists and differs in more than the seed.
    """
    tables = read_toml(path)
    if tables.get("seed", 0) == seed:
        return path
    expected = {key: value for key, value in tables.items() if key != "name"} | {"seed": seed}
    copy = path.with_name(f"{path.stem}_seed{seed}.toml")
    if not copy.exists():
        _write(copy, _with_seed(path, copy.stem, seed), expected)
        log.info("wrote %s", copy)
    elif (found := read_toml(copy)) != expected:
        raise ValueError(
            f"{copy} and {path} differ in {_first_difference(found, expected)}, expected only another seed: remove "
            f"{copy} to have it written again, or list it in CONFIGS as a config of its own"
        )
    return copy


def _with_seed(path: Path, name: str, seed: int) -> str:
    """The config's text without its first comment, whose times and scores belong to another seed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    table = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    top = [line for line in lines[first:table] if not SEED_OR_NAME.match(line)]
    return HEADER.format(base=path.stem, name=name, seed=seed) + "".join(top + lines[max(first, table) :])


def _write(copy: Path, text: str, expected: dict[str, Any]) -> None:
    with atomic_write(copy) as partial:
        partial.write_text(text, encoding="utf-8")
        with suppress(ValueError):
            if read_toml(partial) == expected:
                return
        # for example a multi-line value with a line that looks like a key
        raise ValueError(f"{copy} cannot be written by copying lines of the original config: write it by hand")


def _first_difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    return min(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
