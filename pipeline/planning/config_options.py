"""The options of a drafted config: the value of each key, and the reason for it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

PHASE = "train.phases."  # prefix of the keys of phases


class Option(NamedTuple):
    """A key of the config, its value, and the reason for it."""

    key: str  # dotted, as in `pipeline.config`; of a phase its key alone
    value: Any
    reason: str


@dataclass(frozen=True)
class ConfigDraft:
    """The options of a config.

    Args:
        options: all but those of the phases, in the order of the config's tables.
        phases: the options of each phase; their keys are those of `config.Phase`.
    """

    options: tuple[Option, ...]
    phases: tuple[tuple[Option, ...], ...]

    def find(self, key: str) -> Option | None:
        """The option of a dotted key, as `value` takes it; None if it is at its default."""
        table, name = self._table_of(key)
        return next((each for each in table if each.key == name), None)

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key, such as "data.size", or "train.phases.0.crop" of the first phase.

        Args:
            default: what an option that is not in the draft counts as.

        Raises:
            ValueError: for a phase that does not exist.
        """
        found = self.find(key)
        return default if found is None else found.value

    def with_option(self, key: str, value: Any, reason: str) -> "ConfigDraft":
        """The draft with an option set; one of each phase if the key begins with "train.phases.*.".

        Raises:
            ValueError: for a phase that does not exist.
        """
        if not key.startswith(PHASE):
            return replace(self, options=_with(self.options, Option(key, value, reason)))
        self._table_of(key)
        place, name = key.removeprefix(PHASE).split(".", 1)
        option = Option(name, value, reason)
        phases = [
            _with(phase, option) if place in ("*", str(number)) else phase for number, phase in enumerate(self.phases)
        ]
        return replace(self, phases=tuple(phases))

    def without(self, key: str) -> "ConfigDraft":
        """The draft with an option at its default; keys as for `with_option`."""
        if not key.startswith(PHASE):
            return replace(self, options=tuple(each for each in self.options if each.key != key))
        self._table_of(key)
        place, name = key.removeprefix(PHASE).split(".", 1)
        phases = [
            tuple(each for each in phase if not (each.key == name and place in ("*", str(number))))
            for number, phase in enumerate(self.phases)
        ]
        return replace(self, phases=tuple(phases))

    def tables(self) -> dict[str, Any]:
        """The nested tables of the config, as a TOML file has them."""
        found: dict[str, Any] = {}
        for option in self.options:
            *parents, last = option.key.split(".")
            node = found
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = option.value
        phases = [{option.key: option.value for option in phase} for phase in self.phases]
        return {**found, "train": {**found.get("train", {}), "phases": phases}}

    def _table_of(self, key: str) -> tuple[Sequence[Option], str]:
        """The options of the table that a key is in, and its name there; of "*" those of the first phase."""
        if not key.startswith(PHASE):
            return self.options, key
        place, _, name = key.removeprefix(PHASE).partition(".")
        number = 0 if place == "*" else int(place) if place.isdecimal() else len(self.phases)
        if number >= len(self.phases):
            raise ValueError(f"{key}: expected the number of one of {len(self.phases)} phases, from 0, or *")
        return self.phases[number], name


def _with(options: tuple[Option, ...], option: Option) -> tuple[Option, ...]:
    """The options with one replaced, at its place, or added at the end."""
    if any(each.key == option.key for each in options):
        return tuple(option if each.key == option.key else each for each in options)
    return (*options, option)
