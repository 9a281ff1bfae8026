"""Members of an ensemble whose predictions are of another tool."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import config, stages
from pipeline.cli import main
from pipeline.cli.terminal import load_configs
from pipeline.inference.prediction_store import PredictionStore
from pipeline.stages import importing
from pipeline.stages.ensembling import _combine_test, load_members, split_members
from pipeline.stages.importing import import_member

pytestmark = pytest.mark.slow


def write_float(path: Path, values: np.ndarray) -> None:
    np.save(path.with_suffix(".npy"), (values / 255).astype(np.float32))


def write_half(path: Path, values: np.ndarray) -> None:
    np.savez_compressed(path.with_suffix(".npz"), (values[0] / 255).astype(np.float16))


def write_png(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values[0]).save(path.with_suffix(".png"))


def write_tiff(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values[0].astype(np.uint16) * 257).save(path.with_suffix(".tif"))


def export(name: str, write=write_float, *, by_fold: bool = True) -> None:
    """Write the stores of a run into oof/ and test/, below fold<k>/ or all together."""
    for fold in range(3):
        for part in ("oof", "test"):
            store = PredictionStore(Path(f"runs/{name}/fold{fold}/{part}"))
            folder = Path("theirs", part, f"fold{fold}" if by_fold else "")
            folder.mkdir(parents=True, exist_ok=True)
            for image_id in store.ids():
                write(folder / image_id, store.read(image_id))


def run(*words: str) -> int:
    return main(["import", "configs/tiny.toml", "--name", "theirs", *words])


OOF, TEST = ("--oof", "theirs/oof"), ("--test", "theirs/test")


def written(name: str) -> tuple[bytes, ...]:
    return tuple(Path(f"submissions/{name}{end}").read_bytes() for end in (".csv", ".oof.csv"))


def score_of(name: str) -> dict:
    manifest = json.loads(Path(f"submissions/{name}.json").read_text())
    return {key: value for key, value in manifest.items() if key.startswith(("oof", "gain", "threshold"))}


# ----------------------------------------------------------------------------------- equal to native ones


@pytest.mark.parametrize("write", [write_float, write_half, write_png, write_tiff])
def test_imported_predictions_equal_native_ones_to_the_last_count(submitted, write):
    export("seed1", write)
    assert run(*OOF, *TEST) == 0
    for fold in range(3):
        for part in ("oof", "test"):
            one, other = (PredictionStore(Path(f"runs/{name}/fold{fold}/{part}")) for name in ("seed1", "theirs"))
            assert one.ids() == other.ids()
            assert all(np.array_equal(one.read(image_id), other.read(image_id)) for image_id in one.ids())


def test_an_ensemble_with_an_imported_member_equals_that_with_the_native_one(submitted):
    export("seed1")
    assert run(*OOF, *TEST) == 0
    for names in ("tiny seed1", "tiny theirs"):
        assert main(["ensemble", "configs/tiny.toml", "--configs", names]) == 0
    assert written("tiny+seed1") == written("tiny+theirs")
    renamed = json.dumps(score_of("tiny+theirs")).replace("theirs", "seed1")
    assert json.loads(renamed) == score_of("tiny+seed1")


def test_an_imported_member_alone_has_scores_a_report_and_a_comparison(submitted, capsys):
    export("seed1")
    run(*OOF, *TEST)
    assert main(["ensemble", "configs/theirs.toml"]) == 0
    assert written("theirs") == written("seed1")
    manifest = json.loads(Path("submissions/theirs.json").read_text())
    assert manifest["configs"]["theirs"]["imported"]["oof"] == "theirs/oof"
    assert not {"model", "train", "predict"} & set(manifest["configs"]["theirs"])
    assert manifest["machines"] == {"theirs": []}
    assert main(["report", "configs/theirs.toml"]) == 0
    assert stages.compare("theirs", "seed1").difference.mean == 0
    capsys.readouterr()
    assert main(["oof", "configs/theirs.toml"]) == 0
    assert "best phase" not in capsys.readouterr().out


def test_test_predictions_of_all_folds_together_are_one_store(submitted):
    export("seed1")
    for path in Path("theirs/test/fold1").iterdir():
        shutil.copy(path, "theirs/test")
    for fold in range(3):
        shutil.rmtree(f"theirs/test/fold{fold}")
    done = import_member(config.load("configs/tiny.toml"), "theirs", oof=Path("theirs/oof"), test=Path("theirs/test"))
    assert done.test_folds == ()
    (store,) = stages.make_context(config.load("configs/theirs.toml")).test_stores()
    native = PredictionStore(Path("runs/seed1/fold1/test"))
    assert all(np.array_equal(store.read(image_id), native.read(image_id)) for image_id in native.ids())


def test_predictions_of_some_folds_are_used_with_these_folds(submitted, capsys):
    export("seed1")
    for part in ("oof", "test"):
        shutil.rmtree(f"theirs/{part}/fold1")
    assert run(*OOF, *TEST) == 0
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny theirs", "--folds", "0 2"]) == 0
    main(["ensemble", "configs/tiny.toml", "--configs", "tiny seed1", "--folds", "0 2"])
    assert written("tiny+theirs-fold0-fold2") == written("tiny+seed1-fold0-fold2")
    capsys.readouterr()
    assert main(["ensemble", "configs/tiny.toml", "--configs", "tiny theirs"]) == 2
    assert "use the folds that have them (FOLDS)" in capsys.readouterr().err


def test_predictions_that_name_no_fold_are_imported_with_a_note(submitted, capsys):
    export("seed1", by_fold=False)
    assert run(*OOF, *TEST) == 0
    assert "only if the models were trained on folds/tiny.csv" in " ".join(capsys.readouterr().out.split())


def test_an_import_replaces_the_one_before(submitted):
    export("tiny")
    run(*OOF, *TEST)
    shutil.rmtree("theirs")
    export("seed1")
    assert run(*OOF, *TEST) == 0
    assert main(["ensemble", "configs/theirs.toml"]) == 0
    assert written("theirs") == written("seed1")


# ----------------------------------------------------------------------------------- without OOF predictions


def write_sure(path: Path, value: int) -> None:
    """A prediction of the test images that is `value` everywhere."""
    path.mkdir(parents=True)
    for row in pd.read_csv("tiny/sample_submission.csv", dtype=str)["id"]:
        Image.fromarray(np.full((36, 44), value, np.uint8)).save(path / f"{row}.png")


def test_an_interrupted_import_keeps_the_one_before(submitted, monkeypatch):
    export("seed1")
    assert run(*OOF, *TEST) == 0
    before = {path: path.read_bytes() for path in Path("runs/theirs").rglob("*") if path.is_file()}
    write, images = importing.StoreWriter.write, iter(range(9))

    def interrupted(*arguments):
        if next(images) == 8:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(importing.StoreWriter, "write", interrupted)
    assert run(*OOF, *TEST) == 130
    assert {path: path.read_bytes() for path in Path("runs/theirs").rglob("*") if path.is_file()} == before
    assert not list(Path("runs").glob(".*"))


def test_a_member_without_oof_predictions_needs_a_weight_and_changes_no_score(submitted, capsys):
    write_sure(Path("theirs/test"), 255)
    assert run(*TEST) == 0
    both = ["ensemble", "configs/tiny.toml", "--configs", "tiny theirs"]
    capsys.readouterr()
    assert main(both) == 2
    assert 'give it, as in WEIGHTS="theirs=0.5"' in capsys.readouterr().err
    assert main([*both, "--weights", "theirs=0.99"]) == 0
    assert "its weight of 0.99 was given and cannot be checked" in capsys.readouterr().out
    manifest = json.loads(Path("submissions/tiny+theirs.json").read_text())
    assert manifest["unscored"] == {"theirs": 0.99}
    assert manifest["oof_score"] == json.loads(Path("submissions/tiny.json").read_text())["oof_score"]
    cfgs = load_configs(Path("configs/tiny.toml"), "tiny theirs", None, None, False, weights="theirs=0.99")
    members, unscored = split_members(load_members(cfgs))
    renderer = stages.ensemble(cfgs).selection.renderer
    together, native = (_combine_test(members, renderer, others) for others in (unscored, []))
    for image_id in PredictionStore(Path("runs/theirs/test")).ids():
        expected = np.rint(0.99 * 255 + 0.01 * native(image_id))
        assert np.array_equal(together(image_id), expected)
    assert main([*both, "--weights", "theirs=0.000001"]) == 0
    assert written("tiny+theirs")[0] == written("tiny")[0]
    assert main(["report", *both[1:], "--weights", "theirs=0.5"]) == 0
    assert "cannot be checked" in Path("reports/tiny+theirs.html").read_text()


@pytest.mark.parametrize("command", [["compare", "tiny+theirs", "tiny"], ["final", "tiny+theirs", "tiny"]])
def test_a_score_that_is_not_of_all_members_is_not_compared(submitted, capsys, command):
    write_sure(Path("theirs/test"), 255)
    run(*TEST)
    main(["ensemble", "configs/tiny.toml", "--configs", "tiny theirs", "--weights", "theirs=0.5"])
    capsys.readouterr()
    options = ["--competition", "tiny.toml"] if command[0] == "final" else []
    assert main([*command, *options]) == 2
    assert "theirs has no OOF predictions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("theirs=1", "expected a share between 0 and 1"),
        ("theirs=a", "expected a share between 0 and 1"),
        ("theirs=0", "expected a share between 0 and 1"),
        ("tiny=0.5", "tiny has OOF predictions, by which its weight is chosen"),
        ("their=0.5", "their is none of CONFIGS"),
        ("theirs=0.5 more=0.5", "WEIGHTS sum to 1: expected less than 1"),
    ],
)
def test_wrong_weights_are_refused(submitted, capsys, weights, said):
    write_sure(Path("theirs/test"), 255)
    run(*TEST)
    main(["import", "configs/tiny.toml", "--name", "more", *TEST])
    names = "tiny theirs more" if "more" in weights else "tiny theirs"
    capsys.readouterr()
    assert main(["ensemble", "configs/tiny.toml", "--configs", names, "--weights", weights]) == 2
    assert said in capsys.readouterr().err


def test_an_ensemble_of_members_without_oof_predictions_is_refused(submitted, capsys):
    write_sure(Path("theirs/test"), 255)
    run(*TEST)
    capsys.readouterr()
    assert main(["ensemble", "configs/theirs.toml", "--weights", "theirs=0.5"]) == 2
    assert "no member has OOF predictions" in capsys.readouterr().err


# ----------------------------------------------------------------------------------- bad input


def refused(capsys, *words: str) -> str:
    """The one line of an import that is refused, which leaves nothing behind."""
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("pipeline import: ")
    assert error.count("\n") == 1
    assert not Path("runs/theirs").exists()
    assert not Path("configs/theirs.toml").exists()
    return error


def test_an_image_in_another_fold_is_refused(submitted, capsys):
    export("seed1")
    moved = next(Path("theirs/oof/fold0").iterdir())
    moved.rename(Path("theirs/oof/fold2") / moved.name)
    assert re.search(
        rf"oof: image '{moved.stem}' was predicted by the model of fold 2, but folds/tiny.csv has it in fold 0",
        refused(capsys, *OOF, *TEST),
    )


def test_ids_without_a_fold_and_missing_ids_are_refused(submitted, capsys):
    export("seed1")
    one = next(Path("theirs/oof/fold0").iterdir())
    one.rename(one.with_name("9999.npy"))
    assert "images that have no fold in folds/tiny.csv, such as '9999'" in refused(capsys, *OOF, *TEST)
    one.with_name("9999.npy").unlink()
    assert "1 of 6 images of fold 0 have no prediction" in refused(capsys, *OOF, *TEST)
    next(Path("theirs/test/fold1").iterdir()).unlink()
    assert "1 of 5 test images have no prediction" in refused(capsys, *TEST)
    assert "TEST=folder is missing" in refused(capsys, *OOF)


def test_other_sizes_logits_and_percent_are_refused_with_the_image(submitted, capsys):
    export("seed1")
    path = sorted(Path("theirs/oof/fold1").iterdir())[0]
    values = np.load(path)
    for wrong, said in (
        (values.transpose(0, 2, 1), "it is transposed"),
        (8 * values - 4, f"image '{path.stem}': values from"),
        (8 * values - 4, "they look like logits"),
        (1.04 * (values - values.min()) / np.ptp(values) - 0.02, "they overshoot, as probabilities do after a bicubic"),
        (100 * values / values.max(), "they look like 0-100"),
    ):
        np.save(path, wrong)
        assert said in refused(capsys, *OOF, *TEST)


def test_a_name_of_a_config_or_a_path_is_refused(submitted, capsys):
    export("seed1")
    for name, said in (("tiny", "is the config of a model"), ("seed1", "is the config of a model"), ("../a", "NAME=")):
        assert main(["import", "configs/tiny.toml", "--name", name, *OOF, *TEST]) == 2
        assert said in capsys.readouterr().err
    Path("configs/seed1.toml").unlink()
    assert main(["import", "configs/tiny.toml", "--name", "seed1", *OOF, *TEST]) == 2
    assert "runs/seed1 has trained models" in capsys.readouterr().err
    assert Path("runs/seed1/fold0/best.safetensors").exists()


def test_what_needs_a_model_is_refused_in_one_line(submitted, capsys):
    export("seed1")
    run(*OOF, *TEST)
    text = Path("configs/seed1.toml").read_text()
    Path("configs/pupil.toml").write_text(f'{text}\n[train.pseudo]\nfrom = "theirs"\n')
    for command, said in (
        (["train", "configs/theirs.toml", "--fold", "0"], "no model to train"),
        (["bundle", "configs/tiny.toml", "--configs", "tiny theirs"], "a bundle cannot predict other images"),
        (["train", "configs/pupil.toml", "--fold", "0"], "train.pseudo.from: theirs has no model"),
    ):
        capsys.readouterr()
        assert main(command) == 2
        assert said in capsys.readouterr().err
