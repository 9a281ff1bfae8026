"""A renderer as plain values in a manifest or a bundle, and back."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import pydantic

from pipeline.ensemble.calibration import Table
from pipeline.ensemble.candidate_rules import RULE_SETS
from pipeline.ensemble.combine import STACK, find_combination
from pipeline.ensemble.renderer import ARGMAX, INSTANCES, Postprocess, Renderer
from pipeline.ensemble.stacking import Stack
from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.postprocess.instances import InstanceRules
from pipeline.postprocess.rules import Rules, Share
from pipeline.quoting import listed, quoted

Weight = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
T = TypeVar("T")
RULES_TYPES = {**dict.fromkeys(RULE_SETS, Rules), ARGMAX: None, INSTANCES: InstanceRules}  # the rules of each rule set


def to_record(renderer: Renderer, members: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """A renderer as plain values: combination, weights by member, rule_set and the fields of its rules.

    A calibration is one text of 256 numbers for each member, since a list would fill the manifest with lines.
    Of several classes with rules of their own, `classes` has these values by class.
    """
    records = [
        {
            "combination": part.combination,
            "weights": dict(zip(members, part.weights, strict=True)),
            **({"calibrated_by": part.calibrated_by} if part.calibrated_by else {}),
            **({"calibration": _calibration_record(part, members)} if part.calibration else {}),
            **({"stack": _stack_record(part.stack, members)} if part.stack else {}),
            "rule_set": part.rule_set,
            **_rules_record(part.rules),
        }
        for part in renderer.parts
    ]
    return records[0] if len(records) == 1 else {"classes": dict(zip(classes, records, strict=True))}


def from_record(record: Mapping[str, Any], members: Sequence[str], classes: Sequence[str]) -> Renderer:
    """The renderer of a record: the inverse of `to_record`.

    Args:
        record: may have further keys, as a manifest has.
        members, classes: in the order of predictions.

    Raises:
        ValueError: for a record of other members or classes, or a value that is unknown or out of range.
    """
    records = _in_order(record["classes"], classes, "classes") if "classes" in record else [record]
    renderer = Renderer(tuple(_postprocess(each, members) for each in records))
    kinds = [RULES_TYPES[part.rule_set] for part in renderer.parts]
    if kinds != [Rules] * len(classes) and (Rules in kinds or len(kinds) > 1):
        raise ValueError(
            f"rule_set {listed([part.rule_set for part in renderer.parts])}: expected one for each of "
            f"{listed(classes)}, or one of {ARGMAX}, {INSTANCES} for all"
        )
    return renderer


def _postprocess(record: Any, members: Sequence[str]) -> Postprocess:
    rule_set = record.get("rule_set") if isinstance(record, Mapping) else record
    if rule_set not in list(RULES_TYPES):  # a list: an unhashable value is refused like any other
        raise ValueError(f"rule_set {quoted(rule_set)}: expected one of {', '.join(RULES_TYPES)}")
    combination, weights = record.get("combination"), _weights(record, members)
    if combination != STACK:
        find_combination(combination if isinstance(combination, str) else quoted(combination))
    return Postprocess(
        combination,
        weights,
        rule_set,
        _rules(record, RULES_TYPES[rule_set]),
        _calibration(record, members),
        _stack(record, members) if combination == STACK else None,
        _checked(str, record.get("calibrated_by", "")),
    )


def _rules_record(rules: Rules | InstanceRules | None) -> dict[str, Any]:
    """The fields of rules; thresholds by group as a mapping, for people to read."""
    fields = rules._asdict() if rules else {}
    return {**fields, "by_group": dict(rules.by_group)} if isinstance(rules, Rules) else fields


def _rules(record: Mapping[str, Any], kind: type[Rules] | type[InstanceRules] | None) -> Rules | InstanceRules | None:
    """The rules in a record; a field that is missing has its default."""
    if kind is None:
        return None
    if "threshold" not in record:
        raise ValueError("the record has no threshold: make ensemble writes it")
    fields = {name: record[name] for name in kind._fields if name in record}
    if "by_group" in fields:
        fields["by_group"] = tuple(_checked(dict[str, Share], fields["by_group"]).items())
    return _checked(kind, fields)


def _weights(record: Mapping[str, Any], members: Sequence[str]) -> tuple[float, ...]:
    weights = _checked(tuple[Weight, ...], tuple(_in_order(record.get("weights", {}), members, "weights")))
    if not sum(weights) > 0:
        raise ValueError(f"weights {listed(weights)}: expected one above 0")
    return weights


def _calibration_record(part: Postprocess, members: Sequence[str]) -> dict[str, str]:
    texts = (" ".join(f"{value:g}" for value in table) for table in part.calibration)
    return dict(zip(members, texts, strict=True))


def _calibration(record: Mapping[str, Any], members: Sequence[str]) -> tuple[Table, ...]:
    if "calibration" not in record:
        return ()
    texts = _in_order(record["calibration"], members, "calibration")
    tables = _checked(tuple[Table, ...], tuple(tuple(map(_number, str(text).split())) for text in texts))
    if any(len(table) != MAX_VALUE + 1 or list(table) != sorted(table) for table in tables):
        raise ValueError(f"calibration: expected {MAX_VALUE + 1} numbers for each member, 0 to {MAX_VALUE}, rising")
    return tables


def _stack_record(stack: Stack, members: Sequence[str]) -> dict[str, Any]:
    own, around = (dict(zip(members, weights, strict=True)) for weights in (stack.own, stack.around))
    return {"intercept": stack.intercept, "own": own, "around": around}


def _stack(record: Mapping[str, Any], members: Sequence[str]) -> Stack:
    stack = record.get("stack")
    if not isinstance(stack, Mapping) or "intercept" not in stack:
        raise ValueError(f"stack = {quoted(stack)}: expected intercept, own and around, as make ensemble writes them")
    weights = (_in_order(stack.get(name), members, f"stack.{name}") for name in ("own", "around"))
    own, around = (_checked(tuple[Finite, ...], tuple(each)) for each in weights)
    return Stack(_checked(Finite, stack["intercept"]), own, around)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"calibration has {quoted(text)}: expected numbers, 0 to {MAX_VALUE}") from None


def _in_order(values: Any, names: Sequence[str], what: str) -> list[Any]:
    if not isinstance(values, Mapping) or set(values) != set(names):
        found = listed(sorted(values)) if isinstance(values, Mapping) else quoted(values)
        raise ValueError(f"{what} of {found or 'nothing'}: expected those of {listed(names)}")
    return [values[name] for name in names]


def _checked(kind: type[T], values: Any) -> T:
    """Values converted to a type, each checked for its own type and range.

    Raises:
        ValueError: naming the first value that is not valid.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(values, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key} = {quoted(first['input'])}: {first['msg']}") from None
