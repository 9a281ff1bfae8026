"""Names of classes, ids and configs are shown unchanged in a terminal, a chart and a page."""

import io
import logging

import numpy as np
import pytest
from rich.console import Console

from pipeline import cli, progress
from pipeline.cli import main, terminal
from pipeline.report.overlays import Panel, draw_sheet, write_sheet

NAMES = ["[/x]", "[red]y", ":smile:", "[link=file:///]z", r"$\frac$", "<b>&amp;</b>", "{0}", "%s"]


@pytest.fixture
def screen(monkeypatch):
    """A function that captures the output of a console, optionally as a terminal."""

    def print_to(module, name, **options):
        console, text = getattr(module, name), io.StringIO()
        monkeypatch.setattr(console, "_file", text)
        for option, value in options.items():
            monkeypatch.setattr(console, option, value)
        return text

    return print_to


@pytest.mark.parametrize("name", NAMES)
def test_a_table_shows_names_unchanged(screen, name):
    text = screen(terminal, "out")
    terminal.print_table([{"class": name, name: 0.5}], {name: "{:.2f}"})
    assert text.getvalue().count(name) == 2


@pytest.mark.parametrize("name", NAMES)
def test_lines_and_the_log_show_names_unchanged(screen, name):
    text, log = screen(terminal, "out"), screen(progress, "console")
    terminal.out.print(f"rules       {name}: threshold 0.5")
    cli._set_up_logging(debug=False)
    logging.getLogger("pipeline.test").info("fold 0 of %s", name)
    assert text.getvalue() == f"rules       {name}: threshold 0.5\n"
    assert log.getvalue() == f"fold 0 of {name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_progress_bar_shows_names_unchanged(monkeypatch, name):
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=200, markup=False, emoji=False)
    monkeypatch.setattr(progress, "console", console)
    assert list(progress.track([1, 2], f"validate {name}")) == [1, 2]
    assert f"validate {name}" in text.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_sheet_of_pictures_shows_names_unchanged(tmp_path, name):
    rows = {name: [Panel(name, np.zeros((8, 8, 1), np.uint8), None)]}
    write_sheet(tmp_path / "sheet.png", rows)
    figure = draw_sheet(rows)
    strip = figure.subfigs[0]
    assert strip._suptitle.get_text() == strip.axes[0].get_title() == name
    assert not strip.axes[0].title.get_parse_math()


@pytest.mark.slow
def test_folds_supports_and_shows_classes_of_such_names(tiny, edit, capsys):
    edit("tiny.toml", '["disc"]', '["[/x]", "[red]y"]')
    edit("tiny.toml", 'id = "id"', 'id = "id"\nclass = "class"')
    for name in ("train.csv", "sample_submission.csv"):
        _, *rows = (tiny / "tiny" / name).read_text().splitlines()
        parts = [row.split(",") for row in rows]
        lines = [f"{image_id},{label},{rle}" for image_id, rle in parts for label in ("[/x]", "[red]y")]
        (tiny / "tiny" / name).write_text("\n".join(["id,class,rle_mask", *lines]) + "\n")
    assert main(["folds", "configs/tiny.toml", "--set", "model.classes=2"]) == 0
    said = capsys.readouterr().out
    assert "[/x]" in said
    assert "[red]y" in said
