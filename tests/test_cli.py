"""The command line: a user error is one line with exit status 2."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline import stages
from pipeline.cli import main
from pipeline.training import trainer


def run(capsys, *argv):
    status = main([str(arg) for arg in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.strip()


def truncate(path):
    path.write_bytes(path.read_bytes()[:300])


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


# The change to the tiny competition, the command, and the expected message.
MISTAKES = {
    "unknown config key": (
        lambda: edit(Path("configs/tiny.toml"), "batch_size", "batchsize"),
        ["train"],
        r"unknown key 'batchsize' in [train]. Did you mean 'batch_size'?",
    ),
    "unknown encoder": (None, ["train", "--set", "model.encoder=tu-resnt18"], "Did you mean 'tu-resnet18'?"),
    "unknown loss": (
        None,
        ["train", "--set", "train.phases.0.loss={jacard=1}"],
        "unknown loss 'jacard'. Did you mean 'jaccard'?",
    ),
    "unknown view": (None, ["train", "--set", "predict.views=['flop']"], "unknown view 'flop'"),
    "missing image": (
        lambda: Path("tiny/train/images/0919.png").unlink(),
        ["data"],
        "tiny/train/images: no image for 1 of 18 training ids in train.csv, such as '0919'",
    ),
    "truncated image": (
        lambda: truncate(Path("tiny/train/images/0919.png")),
        ["data"],
        "tiny/train/images/0919.png: cannot be read",
    ),
    "truncated image in training": (
        lambda: truncate(Path("tiny/train/images/0919.png")),
        ["train"],
        "tiny/train/images/0919.png: cannot be read",
    ),
    "truncated test image": (
        lambda: truncate(Path("tiny/test/images/0919.png")),
        ["data"],
        "tiny/test/images/0919.png: cannot be read",
    ),
    "odd count in an rle": (
        lambda: edit(Path("tiny/train.csv"), "\n0919,", "\n0919,5 "),
        ["folds"],
        "tiny/train.csv: line 3, id '0919': ",
    ),
    "letters in an rle": (
        lambda: edit(Path("tiny/train.csv"), "\n0919,", "\n0919,x 1 "),
        ["folds"],
        "tiny/train.csv: line 3, id '0919': ",
    ),
    "overlapping runs": (
        lambda: edit(Path("tiny/train.csv"), "\n0919,", "\n0919,1 900 "),
        ["folds"],
        "tiny/train.csv: line 3, id '0919': run 2",
    ),
    "run out of bounds": (
        lambda: edit(Path("tiny/train.csv"), "\n0000,", "\n0000,1580 9"),
        ["folds"],
        "tiny/train.csv: line 2, id '0000': run 1",
    ),
    "duplicate id": (
        lambda: edit(Path("tiny/train.csv"), "\n0919,", "\n0000,\n0919,"),
        ["folds"],
        "1 of 19 rows repeat an id, the first is '0000' (line 3)",
    ),
    "image without a row": (
        lambda: Path("tiny/train/images/extra.png").write_bytes(Path("tiny/train/images/0919.png").read_bytes()),
        ["folds"],
        "1 of 19 training images have no row in train.csv, such as 'extra.png'",
    ),
    "fold that does not exist": (None, ["train", "--fold", "3"], "fold 3 does not exist. Folds with images: 0, 1, 2"),
    "fold that is no number": (
        None,
        ["train", "--fold", "last"],
        "--fold last: expected a number from 0, all, or full",
    ),
    "too many folds": (None, ["folds", "--set", "folds.count=40"], "18 images cannot fill 40 folds"),
    "missing config": (None, ["train", "configs/tony.toml"], "Did you mean 'tiny'?"),
    "missing data": (None, ["train", "--data", "elsewhere"], "elsewhere: no such folder"),
    "unknown command": (None, ["trian"], "No such command 'trian'"),
    "augmentation that needs a crop": (
        None,
        ["train", "--set", "train.phases.0.augment=medium"],
        "augment 'medium' changes sizes, so a batch needs a crop",
    ),
    "other number of folds than the file has": (
        lambda: main(["folds", "configs/tiny.toml"]),
        ["train", "--set", "folds.count=4"],
        "configs/tiny.toml: folds.count is 4, folds/tiny.csv has 3 folds",
    ),
    "masks that the folds were not made from": (
        lambda: [main(["folds", "configs/tiny.toml"]), edit(Path("tiny/train.csv"), "\n0000,", "\n0000,1 90")],
        ["train"],
        "folds/tiny.json: the folds were made from other masks of the same images",
    ),
    "group larger than a fold": (
        lambda: name_groups(["lake"] * 13 + list("abcde")),
        ["folds"],
        "group 'lake' holds 13 of 18 images",
    ),
    "metric that is not defined on a fold": (
        lambda: [
            edit(Path("tiny.toml"), '"mean_dice"', '"mean_dice_ignore_empty"'),
            deal_folds(),
        ],
        ["train"],
        "mean_dice_ignore_empty is not defined on fold 0: none of its 6 images (0000, 0028, 0271, …) has a mask, and "
        'empty images do not count. Set folds.name = "tiny2" in the config and lower folds.count',
    ),
    "fewer groups than folds": (
        lambda: name_groups(["lake", "hill"] * 9),
        ["folds"],
        "2 groups cannot fill 3 folds: lower folds.count",
    ),
    "group column that is not there": (
        lambda: edit(Path("tiny.toml"), 'id = "id"', 'id = "id"\ngroup = "patient"'),
        ["folds"],
        "no column 'patient' (columns.group) in train.csv: images would leak between folds",
    ),
    "classes that the card does not have": (
        None,
        ["train", "--set", "model.classes=2"],
        "model.classes is 2, but the card tiny has 1",
    ),
    "missing sample submission": (
        lambda: Path("tiny/sample_submission.csv").unlink(),
        ["ensemble"],
        "tiny/sample_submission.csv: no such file",
    ),
    "images of different sizes without a crop": (
        lambda: resize(Path("tiny/train/images/0000.png")),
        ["train"],
        "set the phase's crop",
    ),
}


@pytest.mark.parametrize(("options", "said"), [(["--configs", "other"], 1), (["--configs", "tiny"], 0), ([], 0)])
def test_an_ensemble_of_one_config_is_warned_about(tiny, capsys, monkeypatch, options, said):
    def stop(cfgs, _name):
        raise ValueError(f"{len(cfgs)} member")

    Path("configs/other.toml").write_bytes(Path("configs/tiny.toml").read_bytes())
    monkeypatch.setattr("pipeline.stages.ensemble", stop)
    _, _, err = run(capsys, "ensemble", "configs/tiny.toml", *options)
    assert err.count("an ensemble of one config (") == said
    assert err.count("(other): no weights to tune; give two or more in CONFIGS") == said
    assert "1 member" in err


def test_folds_of_several_classes_print_the_share_of_images_with_each(tiny, capsys, monkeypatch):
    table = pd.DataFrame(
        {
            "images": [2, 2],
            "coverage": [0.25, 0.2],
            "coverage_sky": [0.2, 0.2],
            "coverage_car": [0.05, 0.0],
            "with_sky": [1.0, 1.0],
            "with_car": [0.5, 0.0],
            "with_fog=yes": [0.125, 0.5],
        },
        index=pd.Index([0, 1], name="fold"),
    )
    monkeypatch.setattr("pipeline.stages.describe_folds", lambda _: (table, 1.0))
    _, out, _ = run(capsys, "folds", "configs/tiny.toml")
    lines = [line.split() for line in out.splitlines()]
    assert ["fold", "images", "coverage", "with_fog=yes"] in lines
    assert ["0", "2", "0.2500", "12.5%"] in lines
    first = lines.index(["images", "with", "fold", "0", "fold", "1"])
    assert lines[first + 1 : first + 3] == [["sky", "100.0%", "100.0%"], ["car", "50.0%", "0.0%"]]
    assert ["car", "0.0500", "0.0000"] in lines


def deal_folds():
    """Put every third image into one fold, which gets all empty images."""
    ids = [line.split(",")[0] for line in Path("tiny/train.csv").read_text().splitlines()[1:]]
    Path("folds").mkdir()
    rows = [f"{image_id},{place % 3}" for place, image_id in enumerate(ids)]
    Path("folds/tiny.csv").write_text("\n".join(["image_id,fold", *rows]) + "\n")


def name_groups(groups):
    """Add a column with a group for each training image."""
    edit(Path("tiny.toml"), 'id = "id"', 'id = "id"\ngroup = "scene"')
    path = Path("tiny/train.csv")
    rows = zip(path.read_text().splitlines(), ["scene", *groups], strict=True)
    path.write_text("\n".join(map(",".join, rows)) + "\n")


def resize(path):
    from PIL import Image

    Image.open(path).resize((50, 40)).save(path)


@pytest.mark.parametrize("name", MISTAKES)
def test_user_error_is_one_line_and_status_two(tiny, capsys, name):
    plant, (command, *options), message = MISTAKES[name]
    if plant:
        plant()
    has_config = any(option.endswith(".toml") for option in options) or command == "trian"
    status, _, err = run(capsys, command, *([] if has_config else ["configs/tiny.toml"]), *options)
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith(f"pipeline {command}: ")
    assert message in last
    assert "Traceback" not in err
    assert not Path("runs/tiny/fold0/best.safetensors").exists()


def test_empty_fold_is_named(tiny, capsys):
    assert run(capsys, "folds", "configs/tiny.toml")[0] == 0
    path = Path("folds/tiny.csv")
    path.write_text(path.read_text().replace(",1\n", ",2\n"))
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "1")
    assert (status, "fold 1 is empty" in err) == (2, True)


def test_folds_of_other_data_are_refused_and_not_changed(tiny, capsys):
    assert run(capsys, "folds", "configs/tiny.toml")[0] == 0
    path = Path("folds/tiny.csv")
    path.write_text(path.read_text().replace("0919", "0918"))
    before = path.read_bytes()
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert (status, "First difference: '0918'" in err) == (2, True)
    assert path.read_bytes() == before


@pytest.mark.slow
def test_skip_bad_trains_on_the_rest(tiny, capsys):
    truncate(Path("tiny/train/images/0919.png"))
    truncate(Path("tiny/test/images/0919.png"))
    status, _, err = run(capsys, "ensemble", "configs/tiny.toml", "--skip-bad")
    assert (status, "left out: tiny/train/images/0919.png" in err) == (0, True)
    rows = dict(line.split(",") for line in Path("submissions/tiny.csv").read_text().splitlines())
    assert len(rows) == 6
    assert rows["0919"] == ""


def test_skip_bad_works_with_folds_that_list_the_image(tiny, capsys):
    assert run(capsys, "folds", "configs/tiny.toml")[0] == 0
    truncate(Path("tiny/train/images/0919.png"))
    assert run(capsys, "folds", "configs/tiny.toml", "--skip-bad")[0] == 0
    assert "0919" in Path("folds/tiny.csv").read_text()


def test_bad_image_in_a_worker_is_one_line(tiny, capsys):
    truncate(Path("tiny/train/images/0919.png"))
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0", "--set", "train.workers=2")
    assert status == 2
    assert err.splitlines()[-1].startswith("pipeline train: tiny/train/images/0919.png: cannot be read")


def test_ctrl_c_prints_how_to_resume(tiny, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "train", interrupted)
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert (status, "interrupted: run the same command again to resume" in err) == (130, True)


def test_loss_that_turns_nan_is_one_line(tiny, capsys, monkeypatch):
    from pipeline.losses import WeightedLoss

    monkeypatch.setattr(WeightedLoss, "forward", lambda self, logits, target: logits.sum() * float("nan"))
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert status == 2
    assert "loss is nan at batch 1" in err.splitlines()[-1]


def test_full_disk_is_one_line_and_the_last_epoch_is_kept(tiny, capsys, monkeypatch):
    import shutil

    import torch

    from pipeline.training.train_state import TrainState

    calls = []
    original = TrainState.save

    def full_from_the_second_epoch(state, path):
        calls.append(path)
        if len(calls) > 1:
            usage = shutil.disk_usage(".")
            monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
            monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("file write failed")))
        original(state, path)

    monkeypatch.setattr(TrainState, "save", full_from_the_second_epoch)
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert status == 2
    assert "state.pt: the disk is full" in err.splitlines()[-1]
    assert Path("runs/tiny/fold0/state.pt").exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), MemoryError("Unable to allocate 9 TiB"), RuntimeError("[enforce] DefaultCPUAllocator: no memory")],
    ids=["Python's", "numpy's", "torch's"],
)
def test_out_of_memory_is_one_line_with_the_values_to_lower(tiny, capsys, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(stages, "train", full)
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert status == 2
    assert err.splitlines()[-1].startswith("pipeline train: memory is full")
    assert "lower the batch size, train.workers or the phase's crop" in err


def test_debug_shows_the_traceback(tiny):
    with pytest.raises(ValueError, match="unknown view"):
        main(["train", "configs/tiny.toml", "--set", "predict.views=['flop']", "--debug"])


def test_an_internal_error_shows_its_traceback(tiny, monkeypatch):
    monkeypatch.setattr(stages, "train", lambda *_: {}["missing"])
    with pytest.raises(KeyError):
        main(["train", "configs/tiny.toml", "--fold", "0"])


@pytest.mark.parametrize("pattern", ["seresnext50*", "tu-seresnext50*", "seresnext50_"])
def test_encoders_are_found_with_and_without_their_prefix(capsys, pattern):
    status, out, _ = run(capsys, "encoders", pattern)
    assert status == 0
    assert "tu-seresnext50_32x4d" in out
    assert "unet fcn deeplabv3 cascade" in out


def test_encoders_are_listed_by_pattern(capsys):
    status, out, _ = run(capsys, "encoders", "tu-seresnext*_32x4d")
    assert status == 0
    assert "tu-seresnext50_32x4d" in out
    assert "8 16 32" in out


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        ("tu-resnet18", "any"),
        ("mit_b0", "any"),
        ("tu-maxvit_tiny_tf_224", "crop"),
        ("tu-mvitv2_tiny", "crop"),
        ("tu-hiera_tiny_224", "native"),
    ],
)
def test_encoders_are_listed_with_the_size_of_their_images(capsys, name, image_size):
    _, out, _ = run(capsys, "encoders", name)
    header, row = (next(line for line in out.splitlines() if line.startswith(f"{start} ")) for start in ("name", name))
    assert row[header.index("image_size") :].split()[0] == image_size


@pytest.mark.parametrize(
    "name", ["resnet18", "tu-resnet18", "tu-resnet18.tv_in1k", "timm/resnet18.tv_in1k", "tu-resnet18.*"]
)
def test_the_tags_of_an_encoder_are_listed_with_their_licences(capsys, name):
    status, out, _ = run(capsys, "encoders", name)
    rows = [line.split() for line in out.splitlines() if line.startswith("tu-resnet18.")]
    assert status == 0
    assert rows[0] == ["tu-resnet18.a1_in1k", "224", "0.48", "0.46", "0.41", "apache-2.0"]
    assert ["tu-resnet18.tv_in1k", "bsd-3-clause"] in [[row[0], row[-1]] for row in rows]


def test_tags_are_listed_for_a_complete_name_only(capsys):
    assert "its weights" not in run(capsys, "encoders", "resnet1")[1]
    assert "its weights" not in run(capsys, "encoders", "densenet264d")[1]


def test_a_tag_that_an_encoder_does_not_have_is_refused(capsys):
    status, _, err = run(capsys, "encoders", "tu-resnet18.a1")
    assert status == 2
    assert "timm has no weights 'a1' of resnet18. Nearest first: a1_in1k" in err


def test_the_tag_of_a_pattern_is_ignored(capsys):
    status, out, _ = run(capsys, "encoders", "*resne?t50_32x4d*.a1*")
    assert (status, "tu-seresnext50_32x4d" in out) == (0, True)


def test_encoders_without_a_match_suggest_families(capsys):
    assert "no encoder matches 'nosuch'" in run(capsys, "encoders", "nosuch.a1")[2]
    status, _, err = run(capsys, "encoders", "nothinglikeit")
    assert (status, "no encoder matches 'nothinglikeit'" in err) == (2, True)


def test_help_lists_every_stage(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(stage in out for stage in ("data", "folds", "train", "oof", "predict", "ensemble", "score", "encoders"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
            "the GPU's memory is full: lower predict",
        ),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nlong"),
            "the GPU failed (CUDA error: unspecified",
        ),
    ],
    ids=["memory", "lost"],
)
def test_a_gpu_that_fails_is_one_line(tiny, capsys, monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(stages, "train", fail)
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0")
    assert status == 2
    assert err.splitlines()[-1].startswith(f"pipeline train: {message}")


def test_a_full_gpu_names_batch_crop_and_the_phase_that_fitted(tiny, capsys, monkeypatch):
    epochs = []
    original = trainer.train_one_epoch

    def full_in_phase_2(*args, **options):
        epochs.append(options)
        if len(epochs) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args, **options)

    monkeypatch.setattr(trainer, "train_one_epoch", full_in_phase_2)
    pairs = ("--set", "train.phases.0.crop=16", "--set", "train.phases.0.epochs=1")
    status, _, err = run(capsys, "train", "configs/tiny.toml", "--fold", "0", *pairs)
    assert status == 2
    (line,) = [line for line in err.splitlines() if "memory is full" in line]
    assert "in phase 2, with 4 images at once, whole images (phase 1 fitted with crop 16): " in line
    assert "train.accumulate = 2" in line


@pytest.mark.parametrize(
    ("words", "example"),
    [
        (["compare"], "make compare A=nuclei B=nuclei_fpn"),
        (["compare", "nuclei"], "make compare A=nuclei B=nuclei_fpn"),
        (["final"], 'make final SUBMISSIONS="nuclei nuclei_fpn" COMPETITION=nuclei'),
        (["score"], "make score COMPETITION=demo SUBMISSION=x.csv SOLUTION=y.csv"),
        (["score", "demo", "x.csv"], "make score COMPETITION=demo SUBMISSION=x.csv SOLUTION=y.csv"),
        (["import"], "make import NAME=yolo CONFIG=nuclei OOF=folder TEST=folder"),
        (["import", "--test", "folder"], "make import NAME=yolo CONFIG=nuclei OOF=folder TEST=folder"),
        (["import", "--name", "yolo"], "make import NAME=yolo CONFIG=nuclei OOF=folder TEST=folder"),
    ],
)
def test_a_command_without_its_arguments_gives_an_example(words, example, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pipeline {words[0]}: give ")
    assert line.endswith(f"as in: {example}")


@pytest.mark.parametrize("command", ["submit", "upload", "push"])
def test_a_missing_argument_is_named_with_the_usage(command, capsys):
    assert main([command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pipeline {command}: Missing argument 'name'. Usage: pipeline {command} ")


@pytest.mark.parametrize("paths", [[], ["mine.csv"], ["", ""], ["mine.csv", ""]])
def test_a_score_without_both_files_shows_how_to_give_them(paths, capsys):
    """An empty path is what make passes for a variable that is not set."""
    assert main(["score", "demo", *paths]) == 2
    assert "give a submission and the true masks, as in: make score COMPETITION=demo " in capsys.readouterr().err


def test_files_to_score_that_do_not_exist_are_named_by_their_option(tiny, capsys):
    Path("submissions").mkdir()
    Path("submissions/mine.csv").touch()
    assert main(["score", "tiny.toml", "mine.csv", "tiny/solution.csv"]) == 2
    assert "SUBMISSION: mine.csv: no such file: submissions/mine.csv exists\n" in capsys.readouterr().err
    assert main(["score", "tiny.toml", "submissions/mine.csv", "truth.csv"]) == 2
    assert (
        "SOLUTION: truth.csv: no such file: expected the path of a CSV of the true masks\n" in capsys.readouterr().err
    )
