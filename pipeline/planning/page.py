"""The page of a plan: what was measured, what was chosen and why, and how long it took."""

from collections.abc import Iterable, Sequence

from pipeline.planning.budget import Costs, Counts, Plan, describe_limit
from pipeline.planning.budget_clock import RunState
from pipeline.planning.config_options import ConfigDraft
from pipeline.planning.config_text import option_line
from pipeline.planning.fingerprint import Fingerprint
from pipeline.planning.fingerprint_table import fingerprint_rows
from pipeline.progress import clock

# No draft has a smaller encoder to fall back to, which would come before folds.
GIVEN_UP = "views, the length of the trainings, folds, the held-out share, the input size"


def plan_page(
    name: str, draft: ConfigDraft | None, found: Fingerprint, counts: Counts, state: RunState, budget: float
) -> str:
    """The page as Markdown.

    Args:
        draft: with the options of the plan; None for a config that a person wrote.
        budget: seconds.
    """
    used = state.seconds / budget
    blocks = [
        f"# {name}: plan and result",
        f"Budget {clock(budget)}, used {clock(state.seconds)} ({used:.0%}).",
        "\n".join(f"- {line}" for line in state.results),
        "## Plan",
        _describe_plans(state.first_plan, state.plan),
        describe_limit(state.plan, counts, state.views, is_given=state.is_given),
        f"What does not fit into the budget is given up in this order: {GIVEN_UP}.",
        "## Time",
        _table(["step", "planned", "true"], _time_rows(state)),
        "Speed as measured, the choice of rules after the last submission; of submission and report, as expected:",
        _table(["what", "seconds"], _cost_rows(state.costs)),
        f"{counts.train:,} training images, {counts.test:,} test images, {counts.batch} images per update.",
        "## Data",
        _table(["what", "measured"], ([*row.values()] for row in fingerprint_rows(found))),
    ]
    if draft:
        blocks += ["## Options, each with its reason", _table(["option", "reason"], _option_rows(draft))]
    return "\n\n".join(blocks) + "\n"


def _describe_plans(first: Plan, last: Plan) -> str:
    if first == last:
        return f"- {first.describe()}"
    return f"- before training: {first.describe()}\n- revised after the folds, at their speed: {last.describe()}"


def _time_rows(state: RunState) -> list[list[str]]:
    rows = [
        [step.name, "" if step.planned is None else clock(step.planned), clock(step.seconds)] for step in state.steps
    ]
    lost = state.seconds - sum(step.seconds for step in state.steps)
    return [*rows, ["between steps, and in stopped ones", "", clock(max(lost, 0))]]


def _cost_rows(costs: Costs) -> list[list[str]]:
    what = {
        "start": "start of a training",
        "update": "update of the weights",
        "predict": "prediction of an image in one view",
        "choose": "choice of the rules, per image out of fold",
        "submit": "submission, beside the choice of the rules",
        "report": "report",
        "draw": "report, per image out of fold",
    }
    return [[what[key], f"{value:.3f}"] for key, value in costs._asdict().items()]


def _option_rows(draft: ConfigDraft) -> list[list[str]]:
    rows = [[f"`{option_line(option)}`", option.reason] for option in draft.options]
    for number, phase in enumerate(draft.phases, start=1):
        rows += [[f"phase {number}: `{option_line(option)}`", option.reason] for option in phase]
    return rows


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
