"""Scores, submission, report and bundle from a part of the folds, FOLDS="0 1"."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline import config, stages
from pipeline.cli import main
from pipeline.ensemble.combine import blend
from pipeline.inference.prediction_store import PredictionStore
from pipeline.serving.bundle import read_bundle
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.part_of_folds import with_choice_folds

# ----------------------------------------------------------------------------------- choice folds


def images(groups: str, coverage: list[float], folds: list[int] | None = None) -> pd.DataFrame:
    ids = [f"im{number}" for number in range(len(groups))]
    return pd.DataFrame(
        {"image_id": ids, "group": list(groups), "coverage": coverage, "fold": folds or [2] * len(groups)}
    )


def test_with_several_folds_the_choices_are_made_without_each_of_them():
    rows = with_choice_folds(images("abcd", [0.1, 0.2, 0.3, 0.4], [0, 2, 0, 2]))
    assert rows["choice_fold"].tolist() == [0, 2, 0, 2]


def test_one_fold_has_two_halves_of_whole_groups_by_hand():
    # By falling coverage: b (3 images) to half 0, c and d to half 1, which has fewer each time, a to the smaller one.
    rows = with_choice_folds(images("abbbcd", [0.0, 0.5, 0.5, 0.5, 0.4, 0.3]))
    assert dict(zip(rows["group"], rows["choice_fold"], strict=True)) == {"a": 1, "b": 0, "c": 1, "d": 1}


def test_both_halves_have_a_mask_if_two_groups_have_one_and_keep_their_groups():
    rng = np.random.default_rng(0)
    for _ in range(50):
        groups = "".join(rng.choice(list("abcdefgh"), 20))
        filled = set(rng.choice(list(set(groups)), 2, replace=False))
        rows = with_choice_folds(images(groups, [0.3 * (group in filled) for group in groups]))
        halves = rows.groupby("group")["choice_fold"]
        assert (halves.nunique() == 1).all()
        assert halves.first()[sorted(filled)].tolist() in ([0, 1], [1, 0])


def test_halves_do_not_depend_on_the_order_of_the_images():
    rows = images("abcabcde", [0.1, 0.2, 0.2, 0.1, 0.2, 0.2, 0.0, 0.0])
    shuffled = with_choice_folds(rows.sample(frac=1, random_state=1)).sort_values("image_id")
    assert shuffled["choice_fold"].tolist() == with_choice_folds(rows)["choice_fold"].tolist()


def test_a_fold_of_one_group_has_halves_of_its_images():
    rows = with_choice_folds(images("aaaa", [0.4, 0.3, 0.2, 0.1]))
    assert rows["choice_fold"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(("folds", "said"), [("[0,0]", "each once"), ("[3]", "expected numbers from 0 to 2")])
def test_a_fold_that_does_not_exist_or_is_given_twice_is_refused(tiny, folds, said):
    with pytest.raises(ValueError, match=said):
        config.load("configs/tiny.toml", [f"folds.only={folds}"])


def test_folds_that_are_no_numbers_are_refused_in_one_line(tiny, capsys):
    assert main(["ensemble", "configs/tiny.toml", "--folds", "0,1"]) == 2
    assert capsys.readouterr().err == "pipeline ensemble: --folds 0,1: expected numbers from 0, such as '0 1'\n"


# ----------------------------------------------------------------------------------- stages


def scores_of(name: str) -> pd.DataFrame:
    return pd.read_csv(f"submissions/{name}.oof.csv", dtype={"image_id": str})


@pytest.mark.slow
def test_one_fold_needs_no_other_one_and_says_what_its_score_is_of(submitted, capsys):
    for fold in (0, 2):
        shutil.rmtree(f"runs/tiny/fold{fold}")
    assert main(["ensemble", "configs/tiny.toml", "--folds", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "note fold 1 of 3: one half of its groups is scored with the rules chosen on the other" in printed
    assert "the score is of 6 images and one model" in printed
    folds = pd.read_csv("folds/tiny.csv", dtype={"image_id": str})
    scores, manifest = scores_of("tiny-fold1"), json.loads(Path("submissions/tiny-fold1.json").read_text())
    assert set(scores["image_id"]) == set(folds["image_id"][folds["fold"] == 1])
    assert (scores["fold"] == 1).all()
    assert manifest["oof_score"] == pytest.approx(scores["score"].mean())
    assert manifest["folds"] == {"tiny": [1]}
    assert manifest["configs"]["tiny"]["folds"]["only"] == [1]
    assert not Path("runs/tiny/fold0").exists()


@pytest.mark.slow
def test_each_half_of_a_fold_is_scored_with_the_rules_of_the_other(submitted):
    cfg = config.load("configs/tiny.toml", ["folds.only=[0]"])
    done = stages.ensemble([cfg])
    assert sorted(done.selection.by_fold) == [0, 1]
    assert len(done.selection.scores) == 6


@pytest.mark.slow
def test_the_test_set_is_the_mean_of_the_models_of_these_folds(submitted):
    cfg = config.load("configs/tiny.toml", ["folds.only=[2,0]", "predict.full=true", "ensemble.shares=[]"])
    done = stages.ensemble([cfg])
    assert done.csv == Path("submissions/tiny-fold0-fold2.csv")
    (member,) = load_members([cfg])
    assert member.test_folds() == [0, 2]
    stores = [PredictionStore(Path(f"runs/tiny/fold{fold}/test")) for fold in (0, 2)]
    image_id = sorted(stores[0].ids())[0]
    values = blend(np.stack([store.read(image_id) for store in stores]), np.array([0.5, 0.5]))
    rows = pd.read_csv(done.csv, dtype=str, keep_default_na=False).set_index("id")
    mask = done.selection.renderer.render(values)[0]
    assert rows["rle_mask"][image_id] == member.card.dialect.encode(mask)


@pytest.mark.slow
def test_all_folds_by_number_give_what_all_folds_give(submitted):
    stages.ensemble([config.load("configs/tiny.toml", ["folds.only=[0,1,2]"])])
    one, other = (Path(f"submissions/{name}.csv").read_bytes() for name in ("tiny", "tiny-fold0-fold1-fold2"))
    assert one == other
    assert scores_of("tiny").equals(scores_of("tiny-fold0-fold1-fold2"))


@pytest.mark.slow
@pytest.mark.parametrize("folds", ["0", "0 1"])
def test_a_report_of_a_part_has_a_row_per_fold_and_the_note(submitted, folds):
    assert main(["report", "configs/tiny.toml", "--folds", folds]) == 0
    data = stages.collect_report_data([config.load("configs/tiny.toml", [f"folds.only=[{folds.replace(' ', ',')}]"])])
    assert data.folds["fold"].tolist() == [int(each) for each in folds.split()]
    assert data.folds["cross-fitted"].notna().all()
    page = Path(f"reports/tiny{''.join(f'-fold{each}' for each in folds.split())}.html").read_text()
    assert f"of {6 * len(folds.split())} images" in page or f"their {6 * len(folds.split())} images" in page


@pytest.mark.slow
def test_a_bundle_of_a_part_has_only_its_models(submitted):
    cfgs = [config.load("configs/tiny.toml", ["folds.only=[1]"])]
    done = stages.ensemble(cfgs)
    write_weights(Path("bundle"), load_members(cfgs), done)
    assert [path.name for path in sorted(Path("bundle").glob("*.safetensors"))] == ["tiny-fold1.safetensors"]
    assert read_bundle(Path("bundle")).record.name == "tiny-fold1"
    stages.run_bundle(Path("bundle"), Path("tiny"), Path("out/submission.csv"))
    assert Path("out/submission.csv").read_bytes() == done.csv.read_bytes()


@pytest.mark.slow
def test_a_full_fit_of_a_part_is_refused(submitted, capsys):
    assert main(["train", "configs/tiny.toml", "--fold", "full", "--set", "folds.only=[0]"]) == 2
    assert "takes its epochs from all folds" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_are_not_compared_with_all_folds(submitted, capsys):
    main(["ensemble", "configs/tiny.toml", "--folds", "0"])
    capsys.readouterr()
    assert main(["compare", "tiny-fold0", "tiny"]) == 2
    assert "with the same FOLDS" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_in_the_config_itself_are_not_in_the_names_of_files(submitted, capsys):
    text = Path("configs/tiny.toml").read_text()
    Path("configs/part.toml").write_text(text.replace("[folds]", "[folds]\nonly = [0]"))
    shutil.copytree("runs/tiny", "runs/part")
    assert main(["ensemble", "configs/part.toml"]) == 0
    assert Path("submissions/part.csv").is_file()
    assert main(["ensemble", "configs/part.toml", "--folds", "0"]) == 0
    assert Path("submissions/part-fold0.csv").read_bytes() == Path("submissions/part.csv").read_bytes()
    assert main(["report", "configs/part.toml"]) == 0
    assert "<h1>part</h1>" in Path("reports/part.html").read_text()
