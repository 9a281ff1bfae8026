"""The command that drafts a card."""

from pathlib import Path

from pipeline import stages
from pipeline.card_draft.text import one_line
from pipeline.cli.terminal import CardName, DataRoot, Metric, TrainingTable, app, out
from pipeline.quoting import shortened
from pipeline.schema import toml_value

MAX_VALUE, MAX_REASON = 60, 130  # characters of a cell


@app.command()
def card(
    data: DataRoot = None,
    name: CardName = "",
    metric: Metric = "",
    table: TrainingTable = "",
) -> None:
    """Draft a card from the files of a competition: what they are, why, and what is not sure."""
    if data is None:
        raise ValueError("which files? Give their folder, or zip, as in make card DATA=/where/the/files/are")
    done = stages.draft_card(Path(data), name, metric, table)
    for what, fact in done.draft.facts:
        out.print(f"{what:18}{fact}")
    out.print()
    widest = max(len(key.name) for key in done.draft.keys)
    for key in done.draft.keys:
        value = "–" if key.value is None else shortened(toml_value(key.value), MAX_VALUE)
        mark = "  " if key.is_sure else "? "
        out.print(f"{mark}{key.name:{widest}}  {value:{MAX_VALUE}}  {shortened(one_line(key.reason), MAX_REASON)}")
    if done.draft.unsure:
        out.print("\nnot sure, to check on the competition's pages:")
        for key in done.draft.unsure:
            out.print(f"  {key.name}: {one_line(key.reason)}")
    kept = "exists and is kept: remove it to draft it again" if done.is_kept else "written"
    out.print(f"\ncard        {done.path}: {kept}")
    out.print(f"data        {done.root}")
    out.print(f"next        make config NAME={done.path.stem} DATA={done.root}")
    out.print(f"            make doctor CONFIG={done.path.stem} DATA={done.root}")
