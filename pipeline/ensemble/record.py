"""A drawer from its record: what was chosen on OOF, read back where it is used."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.ensemble.choice import Choice
from pipeline.ensemble.combine import combination
from pipeline.ensemble.decision import Drawer, Exclusive, PerClass
from pipeline.ensemble.objects import ObjectCut, Objects
from pipeline.ensemble.rivals import RULES
from pipeline.postprocess import Cut


def drawer_of(record: Mapping[str, Any], members: Sequence[str], classes: Sequence[str]) -> Drawer:
    """The drawer that a manifest records: the inverse of `Drawer.record`.

    Args:
        record: with more keys beside those of the drawer, as a manifest has them.
        members, classes: in the order that predictions have.

    Raises:
        ValueError: for a record of other members or classes, or of none of the three kinds.
    """
    if "objects" in record:
        _weights(record, members)
        return Objects(len(members), ObjectCut(**_fields(record, ObjectCut._fields)))
    if "classes" in record:
        return PerClass(tuple(_choice(part, members) for part in _in_order(record["classes"], classes, "classes")))
    if "threshold" in record:
        return PerClass((_choice(record, members),))
    return Exclusive(_how(record), _weights(record, members))


def _choice(record: Mapping[str, Any], members: Sequence[str]) -> Choice:
    if record.get("rules") not in RULES:
        raise ValueError(f"rules '{record.get('rules')}': expected one of {', '.join(RULES)}")
    cut = Cut(**_fields(record, Cut._fields))
    return Choice(_how(record), _weights(record, members), record["rules"], cut)


def _how(record: Mapping[str, Any]) -> str:
    name = record.get("combination")
    combination(name)
    return name


def _weights(record: Mapping[str, Any], members: Sequence[str]) -> tuple[float, ...]:
    return tuple(_in_order(record.get("weights", {}), members, "weights"))


def _in_order(values: Mapping[str, Any], names: Sequence[str], what: str) -> list[Any]:
    if set(values) != set(names):
        raise ValueError(f"{what} of {', '.join(sorted(values)) or 'nothing'}: expected those of {', '.join(names)}")
    return [values[name] for name in names]


def _fields(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named entries; one that is missing has its default, and no default means that it must be there."""
    if "threshold" not in record:
        raise ValueError("no threshold among what was chosen: make ensemble writes it")
    return {name: record[name] for name in names if name in record}
