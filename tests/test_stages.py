"""The stages audit, compare, final, pseudo, report and full fit on a tiny competition."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipeline import competition, config, folds, stages
from pipeline.cli import main
from pipeline.cli.stages import _command_of_one
from pipeline.data.labels import Labels
from pipeline.duplicates import write_duplicates
from pipeline.duplicates.table import PAIR_COLUMNS
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.inference.prediction_store import PredictionStore
from pipeline.models import build_model
from pipeline.postprocess.rules import Rules
from pipeline.pseudo_labels import soft_label
from pipeline.stages import preparing, training
from pipeline.stages.ensembling import describe_selected_epochs, load_members, oof_of_members, oof_rows
from pipeline.stages.ensembling import test_masks as masks_of_test
from pipeline.stages.labelling import with_pseudo
from pipeline.training.checkpoint import load_checkpoint, read_record, save_checkpoint

pytestmark = pytest.mark.slow


def read_scores(name):
    return pd.read_csv(f"submissions/{name}.oof.csv", dtype={"image_id": str})


def read_sample():
    return pd.read_csv("tiny/sample_submission.csv", dtype=str)["id"].tolist()


# ----------------------------------------------------------------------------------- ensemble, compare, final


def test_ensemble_of_two_prints_its_gain_and_writes_one_score_per_image(submitted, capsys):
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny seed1"]) == 0
    printed = capsys.readouterr().out
    manifest = json.loads(Path("submissions/tiny+seed1.json").read_text())
    best = max(manifest["oof_score_alone"], key=manifest["oof_score_alone"].get)
    assert "not weighted by likeness to the test images: 5 test images are too few to tell" in printed
    assert "weight of the least log loss" in printed
    for word in ("mean_dice, cross-fitted, 95% interval", "in-sample: optimism", f"over {best}, the best alone"):
        assert word in printed
    scores = read_scores("tiny+seed1")
    assert sum(manifest["weights"].values()) == pytest.approx(1)
    assert scores["image_id"].is_unique
    assert len(scores) == 18
    assert scores["score"].mean() == pytest.approx(manifest["oof_score"])
    alone = max(manifest["oof_score_alone"].values())
    assert manifest["oof_score"] - alone == pytest.approx(manifest["gain"]["mean"])
    advice = _command_of_one(best, Path("tiny+seed1.csv"), ["tiny", "seed1"])
    assert (advice in printed) == (manifest["gain"]["mean"] < 0)


@pytest.mark.parametrize(
    ("csv", "command"),
    [
        ("tiny+seed1.csv", "make ensemble CONFIGS=tiny, submissions/tiny.csv"),
        ("tiny+seed1-fold0-fold1.csv", 'make ensemble CONFIGS=tiny FOLDS="0 1", submissions/tiny-fold0-fold1.csv'),
    ],
)
def test_the_command_of_a_better_member_has_the_folds_of_the_ensemble(csv, command):
    assert _command_of_one("tiny", Path("submissions", csv), ["tiny", "seed1"]) == f"tiny scores higher: {command}"


def test_members_with_different_image_sizes_are_refused_with_id_and_sizes(tiny):
    members = [Stored("one", np.zeros((1, 36, 44), np.uint8)), Stored("other", np.zeros((1, 18, 22), np.uint8))]
    rows = pd.DataFrame({"image_id": ["0757"], "path": [Path("0757.png")], "choice_fold": [0], "group": ["a"]})
    said = r"image '0757': other predicts \(1, 18, 22\), one \(1, 36, 44\) .*: an ensemble needs one size"
    with pytest.raises(ValueError, match=said):
        oof_of_members(members, rows).read("0757")


class Stored:
    """A member with the same prediction for every image."""

    def __init__(self, name, values):
        self.cfg = SimpleNamespace(name=name, ensemble=SimpleNamespace(group=None))
        self.card, self.values = competition.load("tiny.toml"), values
        self.labels = Labels.of(self.card)

    def oof_store(self):
        return SimpleNamespace(read=lambda _: self.values)


def files_of(name):
    """The files written by an ensemble, without the time."""
    manifest = json.loads(Path(f"submissions/{name}.json").read_text())
    csvs = [Path(f"submissions/{name}{suffix}").read_bytes() for suffix in (".csv", ".oof.csv")]
    return {**manifest, "made": None}, *csvs


def test_a_repeated_ensemble_writes_identical_files(submitted):
    cfgs = [config.load(f"configs/{name}.toml") for name in ("tiny", "seed1")]
    stages.ensemble(cfgs)
    before = files_of("tiny+seed1")
    shutil.rmtree("submissions")
    stages.ensemble(cfgs)
    assert files_of("tiny+seed1") == before


def test_masks_of_the_test_set_use_the_final_weights(submitted):
    members = load_members([config.load(f"configs/{name}.toml") for name in ("tiny", "seed1")])
    ids = set(read_sample()) - {"0919"}

    def masks(some, *weights):
        mask_of = masks_of_test(some, ids, Renderer((Postprocess("mean", weights, "total", Rules(0.5, 0)),)))
        assert mask_of("0919") is None  # could not be read
        return np.stack([mask_of(image_id) for image_id in sorted(ids)])

    first, second = masks(members[:1], 1.0), masks(members[1:], 1.0)
    assert np.array_equal(masks(members, 1.0, 0.0), first)
    assert np.array_equal(masks(members, 0.0, 1.0), second)
    assert not np.array_equal(first, second)


def test_compare_gives_the_difference_of_two_scores_and_is_antisymmetric(submitted):
    one, other = stages.compare("tiny", "seed1"), stages.compare("seed1", "tiny")
    assert one.difference.mean == pytest.approx(one.a - one.b)
    assert other.difference.mean == pytest.approx(-one.difference.mean)
    assert one.difference.p_better + other.difference.p_better == pytest.approx(1, abs=0.05)
    assert stages.compare("tiny", "tiny").difference.p_better == 0.5


def set_threads(name, threads):
    """Set the number of threads in a manifest; None removes it, as in an older version."""
    path = Path(f"submissions/{name}.json")
    manifest = json.loads(path.read_text())
    machines = {} if threads is None else {"machines": {name: [{"device": "cpu", "threads": threads}]}}
    path.write_text(json.dumps({**{key: value for key, value in manifest.items() if key != "machines"}, **machines}))


@pytest.mark.parametrize(("threads", "said"), [(1, False), (2, True), (None, False)])
def test_compare_reports_different_numbers_of_threads(submitted, capsys, threads, said):
    set_threads("seed1", threads)
    assert main(["compare", "tiny", "seed1"]) == 0
    line = "tiny was trained on cpu with 1 thread, seed1 on cpu with 2 threads: the difference includes"
    assert (line in capsys.readouterr().out) == said


def test_record_and_manifest_contain_the_number_of_threads(submitted):
    machine = {"device": "cpu", "threads": 1}
    assert read_record(Path("runs/tiny/fold0/best.safetensors"))["machine"] == machine
    assert json.loads(Path("submissions/tiny.json").read_text())["machines"] == {"tiny": [machine]}


def test_the_manifest_says_that_epochs_were_selected_on_the_held_out_images(submitted):
    (note,) = json.loads(Path("submissions/tiny.json").read_text())["notes"]
    assert note.startswith("epochs and phases of tiny were selected on the held-out images, so the score is slightly")
    last = stages.make_context(config.load("configs/tiny.toml", ['train.select="last"']))
    assert describe_selected_epochs([last]) == []


def test_compare_with_a_missing_submission_names_the_command(submitted, capsys):
    assert main(["compare", "tiny", "tiny+nothing"]) == 2
    assert 'run make ensemble CONFIGS="tiny nothing" first' in capsys.readouterr().err


def test_compare_prints_difference_interval_and_the_better_submission(submitted, capsys):
    assert main(["compare", "tiny", "seed1"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"difference +[+-]0\.\d{4}  95% interval [+-]0\.\d{4} to [+-]0\.\d{4}", printed)
    assert re.search(r"tiny is better in \d+\.\d% of draws \(18 images in 18 groups\)", printed)
    assert "their folds differ" not in printed


def test_compare_tells_how_much_seeds_differ_and_else_assumes_it(submitted, capsys):
    scores = [json.loads(Path(f"submissions/{name}.json").read_text())["oof_score"] for name in ("tiny", "seed1")]
    assert main(["compare", "tiny", "seed1"]) == 0
    spread = f"two trainings of one config differ by {abs(scores[0] - scores[1]):.4f} (standard deviation; from 2 seeds"
    assert spread in capsys.readouterr().out
    manifest = json.loads(Path("submissions/seed1.json").read_text())
    manifest["configs"]["seed1"]["model"]["encoder"] = "another"
    Path("submissions/seed1.json").write_text(json.dumps(manifest))
    assert main(["compare", "tiny", "seed1"]) == 0
    assert "differ by 0.0060 (standard deviation; assumed: no other seeds" in capsys.readouterr().out


def test_compare_adds_the_luck_of_both_choices(submitted):
    def width():
        found = stages.compare("tiny", "seed1").difference
        return found.high - found.low

    before = width()
    for name in ("tiny", "seed1"):
        path = Path(f"submissions/{name}.json")
        manifest = json.loads(path.read_text())
        path.write_text(json.dumps(manifest | {"oof_score_in_sample": manifest["oof_score"] + 1}))
    assert width() > before + 1


@pytest.mark.parametrize(("key", "value"), [("competition", "cells"), ("selection_metric", "dsb2018_precision")])
def test_compare_by_different_metrics_is_refused(submitted, capsys, key, value):
    path = Path("submissions/seed1.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert main(["compare", "tiny", "seed1"]) == 2
    assert f"tiny and seed1 have different values of {key}, " in capsys.readouterr().err


def test_compare_of_different_images_is_refused(submitted, capsys):
    read_scores("seed1").iloc[1:].to_csv("submissions/seed1.oof.csv", index=False)
    assert main(["compare", "tiny", "seed1"]) == 2
    assert "were scored on different images, 1 are in one only" in capsys.readouterr().err


def test_final_proposes_two_of_three(submitted, capsys):
    worse = read_scores("tiny").assign(score=lambda table: table["score"] / 2)
    worse.to_csv("submissions/worse.oof.csv", index=False)
    assert main(["final", "worse", "tiny", "seed1", "--competition", "tiny.toml", "--data", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"select (tiny and seed1|seed1 and tiny)", printed)
    assert "5 test images, 30% of them public" in printed
    assert re.search(r"is not the best private one in \d+% of simulations", printed)


def test_final_of_few_groups_gives_no_advice(submitted, capsys):
    for name in ("tiny", "seed1"):
        scores = read_scores(name)
        scores.assign(group=[f"patient{row % 4}" for row in range(len(scores))]).to_csv(
            f"submissions/{name}.oof.csv", index=False
        )
    assert main(["final", "tiny", "seed1", "--competition", "tiny.toml", "--data", "tiny"]) == 2
    assert re.search(r"counts [34]\.\d effective groups, a simulated shake-up needs 10", capsys.readouterr().err)


def test_final_for_another_competition_is_refused_with_the_right_one(submitted, capsys):
    assert main(["final", "tiny", "seed1"]) == 2
    assert "tiny is a submission for tiny, not for demo: use COMPETITION=tiny" in capsys.readouterr().err


def test_final_of_two_proposes_both(submitted):
    done = stages.final(["seed1", "tiny"], "tiny.toml", Path("tiny"))
    assert [done.names[place] for place in done.boards.pair] == ["seed1", "tiny"]
    assert sum(done.boards.best) == pytest.approx(1)


@pytest.mark.parametrize("names", [["tiny"], ["tiny", "tiny"], ["tiny", "seed1", "tiny"]], ids=" ".join)
def test_final_refuses_fewer_than_two_different_names(submitted, capsys, names):
    assert main(["final", *names, "--competition", "tiny.toml"]) == 2
    assert f"SUBMISSIONS='{' '.join(names)}': give two or more names, each once" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- audit


def plant_copy(source="0000", name="0999"):
    """A brighter copy of a training image under another id, with its mask."""
    folder = Path("tiny/train/images")
    pixels = np.asarray(Image.open(folder / f"{source}.png")).astype(float)
    Image.fromarray((pixels * 0.8 + 30).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    table = Path("tiny/train.csv")
    row = next(line for line in table.read_text().splitlines() if line.startswith(f"{source},"))
    table.write_text(table.read_text() + f"{name},{row.partition(',')[2]}\n")


def test_audit_finds_a_copy_and_folds_group_it_with_its_original(tiny, capsys):
    plant_copy()
    assert main(["audit", "configs/tiny.toml"]) == 0
    assert re.search(r"copy +train +1", capsys.readouterr().out)
    assert Path("reports/tiny-duplicates.png").stat().st_size > 1000
    context = stages.make_context(config.load("configs/tiny.toml"))
    fold = context.folds.set_index("image_id")["fold"]
    assert fold["0000"] == fold["0999"]


def test_folds_that_separate_a_pair_found_later_are_refused(tiny, capsys):
    plant_copy()
    assert main(["folds", "configs/tiny.toml"]) == 0
    table = pd.read_csv("folds/tiny.csv", dtype=str).set_index("image_id")
    table.loc["0999", "fold"] = str((int(table.loc["0000", "fold"]) + 1) % 3)
    table.to_csv("folds/tiny.csv")
    capsys.readouterr()
    assert main(["audit", "configs/tiny.toml"]) == 0
    said = capsys.readouterr().out
    assert "folds/tiny.csv separates a pair" in said
    assert 'Set folds.name = "tiny2" in the config' in said
    assert main(["train", "configs/tiny.toml", "--fold", "0"]) == 2
    assert "its images would leak" in capsys.readouterr().err
    before = Path("folds/tiny.csv").read_text()
    assert main(["folds", "configs/tiny.toml", "--set", "folds.name=tiny2"]) == 0
    fold = pd.read_csv("folds/tiny2.csv", dtype=str).set_index("image_id")["fold"]
    assert fold["0000"] == fold["0999"], "the advice helps"
    assert Path("folds/tiny.csv").read_text() == before


def test_audit_searches_the_same_images_once_and_prints_how_to_search_again(tiny, capsys):
    again = "using the near-duplicates in folds/tiny.duplicates.csv: remove it to search again"
    assert main(["audit", "configs/tiny.toml"]) == 0
    assert main(["audit", "configs/tiny.toml"]) == 0
    assert again in capsys.readouterr().err
    plant_copy()  # other images: they are searched
    assert main(["audit", "configs/tiny.toml"]) == 0
    said = capsys.readouterr()
    assert again not in said.err
    assert re.search(r"copy +train +1", said.out)


def test_folds_stay_and_a_warning_says_that_new_images_were_not_searched(tiny, capsys):
    assert main(["folds", "configs/tiny.toml"]) == 0
    plant_copy()
    main(["audit", "configs/tiny.toml"])
    said = capsys.readouterr().err
    assert "folds/tiny.duplicates.csv is of other images: near-duplicates of new ones are not in it" in said


def join_two_of_one_fold():
    """Record two training images of one fold as near-duplicates."""
    first, second = pd.read_csv("folds/tiny.csv", dtype=str).query("fold == '0'")["image_id"].head(2)
    pair = [first, "train", second, "train", "copy", "identity", 0, 0, 0.99]
    write_duplicates(Path("folds/tiny.duplicates.csv"), pd.DataFrame([pair], columns=PAIR_COLUMNS))


def test_inflation_compares_the_same_images_on_two_splits(submitted, capsys):
    join_two_of_one_fold()
    assert main(["audit", "configs/tiny.toml", "--inflation", "--set", "folds.seed=3"]) == 0  # of the random split
    random, grouped, gap = re.search(
        r"random split +(\S+).* 18 images\ngrouped split +(\S+)\nCV inflation +(\S+)  95% interval",
        capsys.readouterr().out,
    ).groups()
    assert float(gap) == pytest.approx(float(random) - float(grouped), abs=2e-4) != 0
    assert len(list(Path("runs/tiny_random").glob("fold*/best.safetensors"))) == 3


def test_split_without_groups_ignores_the_groups_of_the_card(tiny, edit):
    edit("tiny.toml", 'id = "id"', 'id = "id"\ngroup = "scene"')
    table = pd.read_csv("tiny/train.csv", dtype=str, keep_default_na=False)
    table["scene"] = table["id"].where(table["rle_mask"] != "", "all empties")
    table.to_csv("tiny/train.csv", index=False)
    whole, loose = (
        stages.make_context(config.load("configs/tiny.toml", [f"folds.name={name}", f"folds.grouped={grouped}"]))
        for name, grouped in (("whole", "true"), ("loose", "false"))
    )
    assert len({*whole.folds["fold"][whole.index["empty"] == "yes"]}) == 1
    assert len({*loose.folds["fold"][loose.index["empty"] == "yes"]}) == 3


def test_inflation_without_groups_is_refused_before_training(submitted, monkeypatch, capsys):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    assert main(["audit", "configs/tiny.toml", "--inflation"]) == 2
    assert "no two training images are in one group" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- more from the same data


def test_full_fit_has_no_oof_and_is_averaged_for_the_test_set(submitted):
    cfg = config.load("configs/tiny.toml", ["predict.full=true"])
    trained = stages.train(cfg, "full")
    assert trained.oof is None
    assert read_record(trained.weights)["fold"] == "full"
    assert not Path("runs/tiny/full/oof").exists()
    stages.predict(cfg)
    assert len(stages.make_context(cfg).test_stores()) == 4
    with pytest.raises(ValueError, match="held out no fold, not fold 0: it was trained on these images"):
        load_checkpoint(trained.weights, build_model(cfg.model), 0)


def lines_of(fold):
    return [json.loads(line) for line in Path(f"runs/tiny/{fold}/metrics.jsonl").read_text().splitlines()]


def test_full_fit_trains_for_the_median_of_the_folds_best_epochs(submitted):
    for fold, best in enumerate([1, 2, 1]):  # epochs of phase 1; in phase 2 the second epoch is the best
        changed = [
            {**line, "best": line["epoch"] == (best if line["phase"] == 1 else 2)} for line in lines_of(f"fold{fold}")
        ]
        Path(f"runs/tiny/fold{fold}/metrics.jsonl").write_text("\n".join(map(json.dumps, changed)))
    stages.train(config.load("configs/tiny.toml"), "full")
    assert [(line["phase"], line["epoch"]) for line in lines_of("full")] == [(1, 1), (2, 1), (2, 2)]


def mean_oof(name):
    """The mean over folds, which have equal sizes here."""
    return np.mean([row["oof"] for row in json.loads(Path(f"runs/{name}/oof.json").read_text())])


def test_pseudo_labels_come_from_the_model_of_the_same_fold_and_the_gain_is_printed(submitted, capsys):
    # A floor of 0, because the expected scores of such small models differ between machines.
    text = Path("configs/tiny.toml").read_text()
    COMPANION.write_text(f'{text}\n[train.pseudo]\nfrom = "tiny"\nfloor = 0.0\n')
    assert main(["pseudo", str(COMPANION)]) == 0
    printed = capsys.readouterr().out
    assert [int(row[0]) for row in re.findall(r"^ +(\d) +\d+ +0\.\d+ +0\.\d+ *$", printed, re.MULTILINE)] == [0, 1, 2]
    with_, without, gain = (
        float(re.search(rf"^{name} +(\S+)", printed, re.MULTILINE)[1]) for name in ("with", "without", "difference")
    )
    assert (with_, without) == (
        pytest.approx(mean_oof("tiny_pseudo"), abs=5e-5),
        pytest.approx(mean_oof("tiny"), abs=5e-5),
    )
    assert gain == pytest.approx(with_ - without, abs=2e-4)
    for fold in range(3):
        labels = PredictionStore(Path(f"runs/tiny_pseudo/pseudo/fold{fold}"))
        predicted = PredictionStore(Path(f"runs/tiny/fold{fold}/test"))
        assert len(labels) > 0
        for image_id in labels.ids():
            assert np.array_equal(labels.read(image_id), soft_label(predicted.read(image_id), 0.3, 0.7))


COMPANION = Path("configs/tiny_pseudo.toml")


def test_pseudo_writes_a_config_that_report_and_ensemble_accept(submitted, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.report.plots.svg", lambda *_: "data:,")
    before = stages.report([config.load("configs/tiny.toml")]).read_text(encoding="utf-8")
    assert "was trained on any" in before
    assert main(["pseudo", "configs/tiny.toml"]) == 0
    gain = re.search(r"difference +(\S+)  95% interval (\S+) to (\S+),", capsys.readouterr().out)
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    pages = [
        stages.report([config.load(path)]).read_text(encoding="utf-8") for path in ("configs/tiny.toml", COMPANION)
    ]
    for page in pages:  # with and without labels
        assert "tiny_pseudo, trained on pseudo-labels, against tiny, whose models made them" in page
        assert f"{gain[1]}, 95% interval {gain[2]} to {gain[3]}" in page
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny tiny_pseudo"]) == 0
    assert Path("submissions/tiny+tiny_pseudo.csv").exists()


def test_the_config_written_by_pseudo_is_the_original_text_with_pseudo_labels(tiny):
    path = Path("configs/tiny.toml")
    path.write_text("# A header that says what tiny scored.\n#\n# Scores: .9\n" + path.read_text() + "# the end\n")
    cfg = config.load(path)
    found = with_pseudo(cfg)
    assert found == config.load(COMPANION)
    assert found.train.pseudo == config.Pseudo(from_="tiny")
    without = found.model_copy(update={"name": "tiny", "train": found.train.model_copy(update={"pseudo": None})})
    assert without == cfg
    text = COMPANION.read_text()
    assert text.startswith("# tiny with pseudo-labels")
    assert "make pseudo CONFIG=tiny_pseudo" in text
    assert "Scores" not in text
    assert "# the end" in text


def test_an_existing_pseudo_config_is_used_with_the_data_options_of_the_original(tiny):
    with_pseudo(config.load("configs/tiny.toml"))
    COMPANION.write_text(COMPANION.read_text() + "floor = 0.5\n")
    found = with_pseudo(config.load("configs/tiny.toml", ["data.root=elsewhere", "data.skip_bad=true"]))
    assert found.train.pseudo.floor == 0.5
    assert (found.data.root, found.data.skip_bad) == (Path("elsewhere"), True)
    assert COMPANION.read_text().endswith("floor = 0.5\n")


@pytest.mark.parametrize("change", [('[train.pseudo]\nfrom = "tiny"\n', ""), ('from = "tiny"', 'from = "seed1"')])
def test_a_pseudo_config_without_labels_of_the_original_is_refused(tiny, edit, change):
    with_pseudo(config.load("configs/tiny.toml"))
    edit(COMPANION, *change)
    with pytest.raises(ValueError, match=r'tiny_pseudo\.toml: expected train\.pseudo with from = "tiny": add it, or'):
        with_pseudo(config.load("configs/tiny.toml"))


def test_without_any_pseudo_label_the_scores_do_not_change(submitted, monkeypatch, capsys):
    monkeypatch.setattr("pipeline.pseudo_labels.calibrate", lambda *_: np.inf)
    assert main(["pseudo", "configs/tiny.toml"]) == 0
    printed = capsys.readouterr()
    assert "none is labelled: lower train.pseudo.floor" in printed.err
    assert len(re.findall(r"^ +\d +0 +0\.\d+ +0\.\d+ *$", printed.out, re.MULTILINE)) == 3
    assert re.search(r"difference +\+0\.0000  95% interval \+0\.0000 to \+0\.0000", printed.out)


@pytest.mark.parametrize("pair", ["train.batch_size=6", "competition=demo"])
def test_pseudo_of_a_config_changed_on_the_command_line_is_refused_before_training(
    submitted, monkeypatch, capsys, pair
):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    assert main(["pseudo", "configs/tiny.toml", "--set", pair]) == 2
    assert "labels come from tiny as in configs/tiny.toml" in capsys.readouterr().err
    assert not COMPANION.exists()


def test_pseudo_labels_of_different_image_sizes_are_refused_before_training(submitted, monkeypatch, capsys):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    path = Path("tiny/test/images/0919.png")
    Image.open(path).resize((52, 36)).save(path)
    assert main(["train", "configs/seed1.toml", "--set", "name=labelled", "--set", "train.pseudo.from=tiny"]) == 2
    assert "images of 2 sizes (mostly 36×44, least often 36×52, such as " in capsys.readouterr().err


def test_full_fit_on_pseudo_labels_is_refused_before_training(submitted, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda *_, **__: pytest.fail("trained"))
    cfg = config.load("configs/seed1.toml", ["train.pseudo.from=tiny", "predict.full=true"])
    with pytest.raises(ValueError, match="a full fit on pseudo-labels is not supported"):
        stages.predict(cfg)


# ---------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("names", [["tiny"], ["tiny", "seed1"]])
def test_report_is_one_file_under_5_megabytes(submitted, names):
    path = stages.report([config.load(f"configs/{name}.toml") for name in names])
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    assert "+".join(names) in page
    assert not re.search(r'(src|href)="https?:', page)


# ------------------------------------------------------------------------------------ runs with other settings


def rewrite_settings(change):
    path = Path("runs/tiny/fold0/best.safetensors")
    record = read_record(path)
    change(record["settings"]["train"])
    save_checkpoint(path, load_file(path), record)


def test_options_that_a_run_does_not_know_count_as_their_defaults(submitted):
    def forget(train):
        del train["optimizer"], train["optimizer_options"], train["augment_on_device"]
        for phase in train["phases"]:
            del phase["encoder_lr"], phase["layer_decay"], phase["size"]

    rewrite_settings(forget)
    cfg = config.load("configs/tiny.toml")
    weights = Path("runs/tiny/fold0/best.safetensors").read_bytes()
    assert training.is_trained(stages.make_context(cfg), 0)
    assert Path("runs/tiny/fold0/best.safetensors").read_bytes() == weights
    other = config.load("configs/tiny.toml", ["train.optimizer=sgd"])
    with pytest.raises(ValueError, match=r"train\.optimizer = adamw, now it is sgd"):
        training.is_trained(stages.make_context(other), 0)


def test_an_option_that_exists_no_more_is_reported(submitted):
    rewrite_settings(lambda train: train.update(annealing=2))
    with pytest.raises(ValueError, match=r"train\.annealing = 2, now it is None"):
        stages.train(config.load("configs/tiny.toml"), 0)


def test_a_run_with_another_option_is_refused(submitted):
    rewrite_settings(lambda train: train["phases"][0].update(cycles=2))
    with pytest.raises(ValueError, match=r"train\.phases\.0\.cycles = 2, now it is 1"):
        stages.train(config.load("configs/tiny.toml"), 0)


# ---------------------------------------------------------------------------------------------- bad input


def test_missing_oof_images_are_reported_before_selection(submitted):
    members = load_members([config.load("configs/tiny.toml")])
    shutil.rmtree("runs/tiny/fold1/oof")
    with pytest.raises(ValueError, match=r"6 of 18 training images have no OOF prediction.*make oof CONFIG=tiny"):
        oof_rows(members)


def test_an_image_in_two_oof_stores_is_reported_with_both_files(submitted, capsys):
    shard = next(Path("runs/tiny/fold0/oof").glob("*.safetensors"))
    shutil.copy(shard, "runs/tiny/fold1/oof/000-00007.safetensors")
    assert main(["ensemble", "configs/tiny.toml"]) == 2
    assert re.search(r"image '\d{4}' is also in runs/tiny/fold0/oof/.*run the stage again", capsys.readouterr().err)


def test_members_of_two_competitions_are_refused(submitted, capsys):
    Path("other.toml").write_text(Path("tiny.toml").read_text().replace("discs on noise", "rings on noise"))
    text = Path("configs/tiny.toml").read_text().replace('"tiny.toml"', '"other.toml"')
    Path("configs/rings.toml").write_text(text)
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny rings"]) == 2
    assert "rings is for other.toml, tiny for tiny.toml: nothing to average" in capsys.readouterr().err


def test_members_on_different_folds_are_refused_with_the_first_image(submitted, capsys):
    text = Path("configs/seed1.toml").read_text().replace("count = 3", 'count = 3\nname = "other"\nseed = 5')
    Path("configs/elsewhere.toml").write_text(text)
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny elsewhere"]) == 2
    assert re.search(r"have different folds, first at image '\d{4}'", capsys.readouterr().err)


@contextmanager
def _lock_after(do):
    """Replaces the lock: another process does something before this one gets the lock."""
    do()
    yield


def test_folds_made_by_another_process_are_used(tiny, monkeypatch):
    stages.make_context(config.load("configs/tiny.toml"))
    made = Path("folds").rename("made")
    monkeypatch.setattr(preparing, "file_lock", lambda *_: _lock_after(lambda: made.rename("folds")))
    monkeypatch.setattr(folds, "assign_folds", lambda *_: pytest.fail("made twice"))
    monkeypatch.setattr(preparing, "search_duplicates", lambda *_: pytest.fail("looked for twice"))
    assert len(stages.make_context(config.load("configs/tiny.toml")).folds) == 18


def test_data_generated_by_another_process_are_used(tiny, monkeypatch):
    cfg = config.load("configs/tiny.toml", ["competition=demo"])
    paths, demo = preparing.Paths(cfg, competition.load("demo")), competition.load("demo")
    monkeypatch.setattr(preparing, "file_lock", lambda *_: _lock_after(paths.root.mkdir))
    monkeypatch.setitem(preparing.GENERATORS, "demo", lambda _: pytest.fail("generated twice"))
    (tiny / "tiny").rename("elsewhere")
    preparing.make_data(demo, paths)
