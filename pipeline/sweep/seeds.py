"""A config with another seed is a config: a file that can be named wherever a config is, as an ensemble's member."""

import logging
import re
from pathlib import Path
from typing import Any

from pipeline.files import atomic_write
from pipeline.schema import read_toml

log = logging.getLogger(__name__)

HEADER = """\
# {base}.toml with another seed, written by make sweep; all else is its copy, and is to stay so.
#
#   make ensemble CONFIGS="{base} {name}"
#
seed = {seed}
"""
OWN = re.compile(r"""\s*["']?(seed|name)["']?\s*=""")  # lines that a copy has of its own: its seed, and no name


def config_of_seed(path: Path, seed: int) -> Path:
    """The config that differs in its seed alone: the file itself if that is its seed, else one beside it.

    Writes: configs/<config>_seed<seed>.toml, if it is missing

    Raises:
        ValueError: if that file is there, and differs in more.
    """
    tables = read_toml(path)
    if tables.get("seed", 0) == seed:
        return path
    wanted = {key: value for key, value in tables.items() if key != "name"} | {"seed": seed}
    copy = path.with_name(f"{path.stem}_seed{seed}.toml")
    if not copy.exists():
        _write(copy, _with_seed(path, copy.stem, seed), wanted)
        log.info("wrote %s", copy)
    elif (found := read_toml(copy)) != wanted:
        raise ValueError(
            f"{copy} and {path} differ in {_first_difference(found, wanted)}, expected only another seed: remove "
            f"{copy} to have it written again, or name it among the configs as one of its own"
        )
    return copy


def _with_seed(path: Path, name: str, seed: int) -> str:
    """The config's text; its first comment goes, whose times and scores are of another seed."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    table = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    top = [line for line in lines[first:table] if not OWN.match(line)]
    return HEADER.format(base=path.stem, name=name, seed=seed) + "".join(top + lines[max(first, table) :])


def _write(copy: Path, text: str, wanted: dict[str, Any]) -> None:
    with atomic_write(copy) as partial:
        partial.write_text(text, encoding="utf-8")
        if not _holds(partial, wanted):  # a value over several lines, say, of which one looks like a key
            raise ValueError(f"{copy} cannot be written as a copy with another seed: write it by hand")


def _holds(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        return read_toml(path) == wanted
    except ValueError:
        return False


def _first_difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    return min(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
