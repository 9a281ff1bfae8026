"""A drawer from its record: what was chosen on OOF, read back where it is used."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic

from pipeline.ensemble.candidate_rules import RULES
from pipeline.ensemble.choice import Choice
from pipeline.ensemble.combine import combination
from pipeline.ensemble.decision import Drawer, Exclusive, PerClass
from pipeline.ensemble.instances import ObjectCut, Objects
from pipeline.postprocess import Cut
from pipeline.quoting import listed, quoted

Weight = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
T = TypeVar("T")


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
        return Objects(len(members), _checked(ObjectCut, _fields(record, ObjectCut._fields)))
    if "classes" in record:
        return PerClass(tuple(_choice(part, members) for part in _in_order(record["classes"], classes, "classes")))
    if "threshold" in record:
        return PerClass((_choice(record, members),))
    return Exclusive(_how(record), _weights(record, members))


def _choice(record: Mapping[str, Any], members: Sequence[str]) -> Choice:
    if not isinstance(record, Mapping) or record.get("rules") not in list(RULES):
        rules = record.get("rules") if isinstance(record, Mapping) else record
        raise ValueError(f"rules {quoted(rules)}: expected one of {', '.join(RULES)}")
    cut = _checked(Cut, _fields(record, Cut._fields))
    return Choice(_how(record), _weights(record, members), record["rules"], cut)


def _how(record: Mapping[str, Any]) -> str:
    name = record.get("combination")
    combination(name if isinstance(name, str) else quoted(name))
    return name


def _weights(record: Mapping[str, Any], members: Sequence[str]) -> tuple[float, ...]:
    weights = _checked(tuple[Weight, ...], tuple(_in_order(record.get("weights", {}), members, "weights")))
    if not sum(weights) > 0:
        raise ValueError(f"weights {listed(weights)}: expected one above 0")
    return weights


def _in_order(values: Mapping[str, Any], names: Sequence[str], what: str) -> list[Any]:
    if not isinstance(values, Mapping) or set(values) != set(names):
        found = listed(sorted(values)) if isinstance(values, Mapping) else quoted(values)
        raise ValueError(f"{what} of {found or 'nothing'}: expected those of {listed(names)}")
    return [values[name] for name in names]


def _fields(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named entries; one that is missing has its default, and no default means that it must be there."""
    if "threshold" not in record:
        raise ValueError("no threshold among what was chosen: make ensemble writes it")
    return {name: record[name] for name in names if name in record}


def _checked(kind: type[T], values: Any) -> T:
    """Values as the kind that they are of, each of its type and in its range.

    Raises:
        ValueError: naming the first that is not.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key} = {quoted(first['input'])}: {first['msg']}") from None
