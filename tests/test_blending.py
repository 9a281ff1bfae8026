"""The vote of submissions: dialects, order, copied texts, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import competition, stages
from pipeline.cli import main
from pipeline.data.tables import read_table
from pipeline.rle import Dialect
from pipeline.submission import check_submission
from tests.miniatures import write_miniature

DIALECTS = {
    "Kaggle's": {},
    "rows from 0, -1": {"order": "row", "base": 0, "empty": "-1"},
    "relative": {"relative": True, "empty": "-1"},
    "list": {"form": "list", "empty": "[]"},
}
SIZE = (36, 44)


def sample_ids() -> list[str]:
    return pd.read_csv("tiny/sample_submission.csv", dtype=str)["id"].tolist()


def write_csv(name: str, masks: dict[str, np.ndarray], dialect: Dialect | None = None) -> str:
    rows = [f'{image_id},"{(dialect or Dialect()).encode(mask)}"' for image_id, mask in masks.items()]
    Path(name).write_text("\n".join(["id,rle_mask", *rows]) + "\n")
    return name


def draw_masks(seed: int, ids: list[str] | None = None) -> dict[str, np.ndarray]:
    """Random masks of the test images; the first one is empty."""
    rng = np.random.default_rng(seed)
    masks = {image_id: (rng.random(SIZE) < 0.5).astype(np.uint8) for image_id in ids or sample_ids()}
    next(iter(masks.values()))[:] = 0
    return masks


def blend(csvs: str, weights: str = "", *, card: str = "tiny.toml", root: str = "tiny", name: str = "out") -> int:
    return main(["blend", "--csvs", csvs, "--weights", weights, "--competition", card, "--data", root, "--name", name])


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_pixel_is_voted_in_every_dialect(tiny, dialect):
    lines = [f"{key} = {json.dumps(value)}" for key, value in dialect.items()]
    Path("tiny.toml").write_text("\n".join([Path("tiny.toml").read_text(), "[dialect]", *lines]))
    of = Dialect(**dialect)
    masks = [draw_masks(seed) for seed in range(3)]
    csvs = [write_csv(f"{number}.csv", each, of) for number, each in enumerate(masks)]
    assert blend(" ".join(csvs), "2 1.5 1") == 0
    table = read_table(Path("submissions/out.csv"), ["id", "rle_mask"])
    assert table["id"].tolist() == sample_ids()
    for image_id, text in zip(table["id"], table["rle_mask"], strict=True):
        votes = 2 * masks[0][image_id] + 1.5 * masks[1][image_id] + masks[2][image_id]
        assert np.array_equal(of.decode(text, SIZE), votes > 2.25)
    assert table["rle_mask"][0] == of.empty


def test_a_blend_of_one_csv_with_itself_is_that_csv(tiny):
    # Written by other code: a run in two parts, no sorting of the empty token, quotes that the writer needs not.
    csv = write_csv("a.csv", draw_masks(0))
    text = Path(csv).read_text().replace('"', "")
    Path(csv).write_text(re.sub(r",(\d+) (\d\d?)\b", lambda m: f",{m[1]} 1 {int(m[1]) + 1} {int(m[2])}", text, count=1))
    for csvs, weights in (("a.csv", ""), ("a.csv a.csv", "2 1"), ("a.csv a.csv a.csv", "1 0 0.5")):
        assert blend(csvs, weights) == 0
        assert Path("submissions/out.csv").read_bytes() == Path("a.csv").read_bytes()


MINIATURES = (
    "data-science-bowl-2018",  # objects, one row each
    "severstal-steel-defect-detection",  # classes in a column of their own
    "understanding_cloud_organization",  # classes in the id
    "hubmap-hacking-the-human-vasculature",  # objects with confidences, packed into one row
    "uw-madison-gi-tract-image-segmentation",
)


@pytest.mark.parametrize("slug", MINIATURES)
def test_a_blend_of_a_submission_with_itself_is_that_submission_on_the_layouts_of_competitions(
    tmp_path, monkeypatch, slug
):
    monkeypatch.chdir(tmp_path)
    root = Path("data")
    write_miniature(slug, root)
    card = competition.load(slug)
    sample = root / card.files.sample_submission
    for _ in range(2):
        done = stages.blend([sample], [], slug, root, "again")
        assert Path("submissions/again.csv").read_bytes() == sample.read_bytes().replace(b"\r\n", b"\n")
    assert done.agreed == done.summary.masks


def test_rows_in_another_order_are_read_and_written_in_that_of_the_sample(tiny):
    masks = draw_masks(0)
    write_csv("a.csv", masks)
    write_csv("b.csv", dict(reversed(masks.items())))
    assert blend("b.csv a.csv") == 0
    assert [line.replace('"', "") for line in Path("a.csv").read_text().split()] == (
        Path("submissions/out.csv").read_text().split()
    )


def test_a_submission_of_weight_0_has_no_vote_and_is_checked(tiny, capsys):
    write_csv("a.csv", draw_masks(0))
    write_csv("b.csv", draw_masks(1))
    blend("a.csv")
    alone = Path("submissions/out.csv").read_bytes()
    assert blend("a.csv b.csv", "1 0") == 0
    assert Path("submissions/out.csv").read_bytes() == alone
    Path("b.csv").write_text(Path("b.csv").read_text() + "7,1 1\n")
    assert blend("a.csv b.csv", "1 0") == 2


def test_the_manifest_names_the_csvs_and_no_score(tiny):
    write_csv("a.csv", draw_masks(0))
    write_csv("b.csv", draw_masks(1))
    assert blend("a.csv b.csv", "2 1", name="mine") == 0
    manifest = json.loads(Path("submissions/mine.json").read_text())
    assert [(each["csv"], each["weight"]) for each in manifest["blend"]] == [("a.csv", 2.0), ("b.csv", 1.0)]
    assert manifest["oof_score"] is None


@pytest.fixture
def objects(tiny):
    """The tiny competition with a row per object."""
    text = Path("tiny.toml").read_text().replace('"mean_dice"', '{ name = "f1", iou = 0.5 }')
    Path("tiny.toml").write_text(text.replace("[files]", "instances = true\n[files]"))


def write_objects(name: str, **objects: list[str]) -> None:
    """A CSV of objects; other images have none."""
    rows = [f"{image_id},{text}" for image_id in sample_ids() for text in objects.get(f"_{image_id}", [""])]
    Path(name).write_text("\n".join(["id,rle_mask", *rows]) + "\n")


def test_objects_are_matched_and_voted(objects):
    image_id = sample_ids()[1]
    write_objects("a.csv", **{f"_{image_id}": ["1 8", "101 10"]})
    write_objects("b.csv", **{f"_{image_id}": ["102 9", "3 8", "200 5"]})
    write_objects("c.csv", **{f"_{image_id}": ["2 8", "300 5"]})
    assert blend("a.csv b.csv c.csv") == 0
    rows = [line.split(",") for line in Path("submissions/out.csv").read_text().splitlines()]
    # Pixels 1 to 8, 3 to 10 and 2 to 9: at least two have 2 to 9. Pixels 101 to 110 and 102 to 110: both have these.
    assert [text for key, text in rows if key == image_id] == ["2 8", "102 9"]
    card = competition.load("tiny.toml")
    check_submission(Path("submissions/out.csv"), card, Path("tiny/sample_submission.csv"), lambda _: SIZE)


def test_objects_that_overlap_in_a_csv_are_refused(objects, capsys):
    image_id = sample_ids()[1]
    write_objects("a.csv", **{f"_{image_id}": ["1 8", "5 10"]})
    write_objects("b.csv", **{f"_{image_id}": ["1 8"]})
    assert blend("a.csv b.csv") == 2
    assert re.search(rf"a.csv: line \d, image '{image_id}': objects 1 and 2 overlap", capsys.readouterr().err)


# ----------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("0 0", "WEIGHTS 0 0: expected 0 or more, and not all 0"),
        ("1", "1 WEIGHTS for 2 CSVS: expected one for each"),
        ("1 2 3", "3 WEIGHTS for 2 CSVS: expected one for each"),
        ("1 -1", "WEIGHTS 1 -1: expected 0 or more, and not all 0"),
        ("nan 1", "WEIGHTS nan 1: expected 0 or more, and not all 0"),
        ("two 1", "--weights two 1: expected numbers, such as '2 1'"),
    ],
)
def test_wrong_weights_are_refused_in_one_line(tiny, capsys, weights, said):
    write_csv("a.csv", draw_masks(0))
    assert blend("a.csv a.csv", weights) == 2
    assert capsys.readouterr().err == f"pipeline blend: {said}\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("rle_mask", "EncodedPixels"), "columns id, EncodedPixels, but the sample"),
        (lambda text: text + "7,1 1\n", "1 ids differ from the sample submission's"),
        (lambda text: "\n".join(text.split("\n")[:-2]) + "\n", "1 ids differ from the sample submission's"),
        (lambda text: text + text.split("\n")[-2] + "\n", "line 7: id '.*' repeats: expected one row per mask"),
        (lambda text: text.replace("\n", "\nx", 2).replace("\nx", "\n", 1), "2 ids differ"),
        (lambda text: re.sub(r'"\d+ \d+', '"1584 2', text, count=1), r"line 3, image '\d+'"),
    ],
)
def test_a_csv_of_another_competition_or_with_wrong_masks_is_refused_in_one_line(tiny, capsys, change, said):
    write_csv("a.csv", draw_masks(0))
    Path("b.csv").write_text(change(Path("a.csv").read_text()))
    assert blend("a.csv b.csv") == 2
    error = capsys.readouterr().err
    assert re.search(rf"^pipeline blend: b\.csv: .*{said}", error)
    assert error.count("\n") == 1
    assert not Path("submissions/out.csv").exists()


def test_missing_csvs_and_a_result_that_is_one_of_them_are_refused(tiny, capsys):
    Path("submissions").mkdir()
    write_csv("submissions/out.csv", draw_masks(0))
    for csvs, said in (
        ("", "CSVS is empty"),
        ("none.csv", "none.csv: no such file"),
        ("submissions/out.csv", "submissions/out.csv is one of the CSVs"),
    ):
        assert blend(csvs) == 2
        assert said in capsys.readouterr().err


def test_a_blend_does_not_replace_an_ensemble_but_replaces_a_blend(tiny, capsys):
    write_csv("a.csv", draw_masks(0))
    assert blend("a.csv") == 0
    assert blend("a.csv") == 0
    manifest = Path("submissions/out.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "blend": None}))
    assert blend("a.csv") == 2
    assert "submissions/out.csv is a submission of the stage ensemble: give the blend an" in capsys.readouterr().err


def test_a_blend_cannot_be_compared(tiny, capsys):
    write_csv("a.csv", draw_masks(0))
    blend("a.csv")
    assert main(["compare", "out", "out"]) == 2
    assert "out is a blend of CSVs, which have no OOF scores" in capsys.readouterr().err
