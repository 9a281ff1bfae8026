"""Training that starts from a whole network: of the same fold, or of other images, and never of held-out ones."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from pipeline import config, stages
from pipeline.cli import main
from pipeline.folds import hold_out
from pipeline.kaggle.input_mounts import set_up_project
from pipeline.models import build_model
from pipeline.models.weights import load_network
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages import training
from pipeline.stages.bundling import write_code, write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.extra_sets import table_digest
from pipeline.stages.preparing import make_context
from pipeline.stages.starting_weights import refuse_leak, same_files
from pipeline.training.checkpoint import FULL, read_record, save_checkpoint
from tests.test_extra_sets import write_older

QUICK = """
[train]
batch_size = 4
precision = "float32"

[[train.phases]]
loss = { bce = 1.0, dice = 1.0 }
epochs = 1
lr = 1e-6
augment = "none"
"""


def write_config(name, *lines, base="tiny", old="", new=""):
    """A config beside the tiny one, with one short phase."""
    text = Path("configs/tiny.toml").read_text().partition("[train]")[0]
    if any(line.startswith("weights") for line in lines):
        text = text.replace('weights = "none"\n', "")
    text = text.replace('competition = "tiny.toml"', f'competition = "{base}.toml"').replace(old or "\0", new)
    text = text.replace('root = "tiny"', f'root = "{base}"').replace("[model]", "\n".join(["[model]", *lines]))
    Path(f"configs/{name}.toml").write_text(text + QUICK)
    return config.load(f"configs/{name}.toml")


def write_older_competition():
    """Another competition, with images of its own, in the tiny one's layout."""
    write_older(9)
    shutil.copytree("tiny/test", "older/test")
    shutil.copyfile("tiny/sample_submission.csv", "older/sample_submission.csv")
    Path("older.toml").write_text(Path("tiny.toml").read_text().replace('name = "tiny"', 'name = "older"'))


@pytest.fixture
def initial(monkeypatch):
    """The weights that a config's fold would start from, without training it."""

    def of(cfg, fold):
        context, found, original = make_context(cfg), {}, training.fit

        def fit(job):  # trains other configs
            found.update(job.model.state_dict()) if job.folder.parts[1] == cfg.name else original(job)

        train, valid = training.folds.hold_out(context.index, context.folds, 0 if fold == FULL else fold)
        with monkeypatch.context() as patch:
            patch.setattr(training, "fit", fit)
            training._fit(context, fold, train, None if fold == FULL else valid)
        return found

    return of


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_each_fold_starts_from_the_network_that_held_it_out(tiny, initial, caplog):
    write_config("first")
    second = write_config("second", 'weights = "run:first"')
    with caplog.at_level("INFO"):
        for fold in (0, 2):
            started = initial(second, fold)
            assert equal(started, load_file(f"runs/first/fold{fold}/best.safetensors"))
            assert read_record(Path(f"runs/first/fold{fold}/best.safetensors"))["fold"] == fold
    assert "starts from the whole network runs/first/fold2/best.safetensors" in caplog.text
    assert not Path("runs/first/fold1").exists(), "only the folds that are needed are trained"
    assert equal(initial(second, FULL), load_file("runs/first/full/best.safetensors"))


@pytest.mark.slow
def test_a_network_of_other_images_starts_a_fold_and_reaches_a_submission(tiny, caplog):
    write_older_competition()
    write_config("first", base="older", old="count = 3", new="count = 2")
    write_config("second", 'weights = "run:first"')
    with caplog.at_level("INFO"):
        done = stages.ensemble([config.load("configs/second.toml")])
    members = load_members([config.load("configs/second.toml")])
    predicted = predict_test(write_weights(Path("bundle"), members, done), Path("tiny"), Path("working/submission.csv"))
    assert predicted.csv.read_bytes() == done.csv.read_bytes()
    assert re.findall(r"whole network runs/first/fold(\d)", caplog.text) == ["0", "1", "0"], (
        "the other one has two folds"
    )
    assert read_record(Path("runs/second/fold2/best.safetensors"))["settings"]["model"]["weights"] == "run:first"


@pytest.mark.slow
@pytest.mark.parametrize("renamed", [False, True], ids=["same file", "copy under another name"])
def test_a_network_that_saw_a_held_out_image_is_refused(tiny, capsys, renamed):
    # The other competition has one of the tiny one's images: only the fold that holds it out is refused.
    write_older_competition()
    fold_of = make_context(config.load("configs/tiny.toml")).folds.set_index("image_id")["fold"]
    source = fold_of.index[fold_of == 1][0]
    name = "zz" if renamed else source
    target = Path(f"older/train/images/{name}.png")
    shutil.copyfile(f"tiny/train/images/{source}.png", target)
    if not renamed:
        target.unlink()
        target.symlink_to(Path(f"tiny/train/images/{source}.png").resolve())
    table = Path("older/train.csv")
    table.write_text(table.read_text() + f"{name},1 5\n")
    first = write_config("first", base="older")
    other = make_context(first).folds.set_index("image_id")["fold"][name]
    write_config("second", 'weights = "run:first"')
    for fold in range(3):
        trained_on_it = fold != other and fold == 1
        assert main(["train", "configs/second.toml", "--fold", str(fold)]) == (2 if trained_on_it else 0)
        said = capsys.readouterr().err.strip().splitlines()[-1]
        if trained_on_it:
            place = r"configs/second\.toml: model\.weights: runs/first/fold1"
            message = rf"{place} was trained on 1 of the 6 held-out images of fold 1, the first is '{source}'"
            assert re.search(message, said), said


@pytest.mark.slow
def test_the_networks_before_the_last_are_checked_too(tiny, capsys):
    # third ← second (other images) ← first (all folds of the tiny one, but other folds)
    write_older_competition()
    write_config("first", old="count = 3", new='count = 3\nname = "others"\nseed = 5')
    write_config("second", 'weights = "run:first"', base="older")
    write_config("third", 'weights = "run:second"')
    make_context(config.load("configs/tiny.toml"))
    assert main(["train", "configs/third.toml", "--fold", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(
        r"model\.weights: runs/second/fold0 was trained on \d+ of the 6 held-out images of fold 0", said
    ), said


def test_the_extra_images_of_a_source_are_checked_without_cutting_its_windows(tiny, monkeypatch, caplog):
    # The source has images of its own, and an extra set with a copy of an image that fold 1 holds out.
    write_older_competition()
    context = make_context(config.load("configs/tiny.toml"))
    _, held_out = hold_out(context.index, context.folds, 1)
    write_older(3, folder=Path("oldest"))
    shutil.copyfile(held_out["path"].iloc[0], "oldest/train/images/e1.png")
    write_config("first", base="older")
    with Path("configs/first.toml").open("a") as file:
        file.write('crop = 16\n[[data.extra]]\nroot = "oldest"\n')
    source = make_context(config.load("configs/first.toml", ["data.crops.size=24", "data.crops.stride=12"]))
    monkeypatch.setattr("pipeline.stages.extra_sets.crop_index", lambda *args: pytest.fail("windows are not needed"))
    message = f"was trained on 1 of the 6 held-out images of fold 1, the first is '{held_out['image_id'].iloc[0]}'"
    with caplog.at_level("INFO"), pytest.raises(ValueError, match=message):
        refuse_leak(context, source, 1, held_out)
    assert "left out" not in caplog.text, "of another config"


def test_other_folds_of_the_same_images_are_refused(tiny, capsys):
    write_config("first", old="count = 3", new='count = 3\nname = "others"\nseed = 5')
    write_config("second", 'weights = "run:first"')
    assert main(["train", "configs/second.toml", "--fold", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"runs/first/fold0 was trained on \d+ of the 6 held-out images of fold 0", said), said
    assert not Path("runs/first/fold0").exists(), "refused before the other config is trained"


def test_a_test_image_counts_as_held_out(tiny, capsys):
    write_older_competition()
    test_id = next(Path("tiny/test/images").iterdir()).stem
    shutil.copyfile(f"tiny/test/images/{test_id}.png", "older/train/images/zz.png")
    table = Path("older/train.csv")
    table.write_text(table.read_text() + "zz,1 5\n")
    fold = make_context(write_config("first", base="older")).folds.set_index("image_id")["fold"]["zz"]
    write_config("second", 'weights = "run:first"')
    other = (fold + 1) % 3
    assert main(["train", "configs/second.toml", "--fold", str(other)]) == 2
    assert f"was trained on 1 of the 5 test images of fold {other}, the first is '{test_id}'" in capsys.readouterr().err


def test_same_files_are_found_by_path_and_by_content(tmp_path):
    one, copy, other, link = (tmp_path / name for name in ("one", "copy", "other", "link"))
    one.write_bytes(b"same"), copy.write_bytes(b"same"), other.write_bytes(b"else")
    link.symlink_to(one)
    assert same_files([one, other], [copy]) == {one}
    assert same_files([link], [one]) == {link}
    assert same_files([other], [one, copy]) == set()


def test_a_bundle_has_the_files_of_all_networks_that_a_config_starts_from(tiny, monkeypatch):
    # third ← second (another card, an extra set) ← first (other folds)
    write_older_competition()
    write_older(5, folder=Path("oldest"))
    Path("oldest.toml").write_text(Path("tiny.toml").read_text().replace('name = "tiny"', 'name = "oldest"'))
    first = write_config("first", old="count = 3", new='count = 3\nname = "others"\nseed = 5')
    write_config("second", 'weights = "run:first"', base="older")
    with Path("configs/second.toml").open("a") as file:
        file.write('\n[[data.extra]]\ncompetition = "oldest.toml"\nroot = "oldest"\n')
    cfgs = [first, config.load("configs/second.toml"), write_config("third", 'weights = "run:second"')]
    contexts = [make_context(cfg) for cfg in cfgs]
    monkeypatch.setattr("pipeline.stages.bundling.write_wheels", lambda folder, wheels: folder.mkdir())
    write_code(Path("code"), contexts[2:])
    copied = set(json.loads(Path("code/layout.json").read_text()).values())
    (extra,) = Path("folds").glob("older.extra-*.csv")
    folds = [f"folds/{name}{suffix}" for name in ("others", "older", "tiny") for suffix in (".csv", ".json")]
    searched = [f"folds/{name}.duplicates.csv" for name in ("others", "older", "tiny")]
    assert copied == {
        *("configs/first.toml", "configs/second.toml", "configs/third.toml"),
        *("tiny.toml", "older.toml", "oldest.toml"),
        *(*folds, *searched, extra.as_posix()),
    }


# Checkpoint files.


def checkpoint(path, cfg, fold, **made_by):
    torch.manual_seed(77)  # no seed of a fold
    model = build_model(cfg.model)
    settings = {"competition": "tiny", "model": cfg.model.model_dump(mode="json"), **made_by}
    save_checkpoint(Path(path), model.state_dict(), {"fold": fold, "settings": settings})
    return model.state_dict()


def test_a_checkpoint_file_starts_the_fold_that_it_held_out(tiny, initial, capsys):
    cfg = config.load("configs/tiny.toml")
    digest = table_digest(make_context(cfg).folds)
    weights = checkpoint("w.safetensors", cfg, 1, folds=digest)
    started = write_config("second", 'weights = "run:w.safetensors"')
    assert equal(initial(started, 1), weights)
    for fold, made_by, message in (
        (0, {"folds": digest}, "was trained on all but fold 1: it has seen images that fold 0 holds out"),
        (1, {"folds": "other"}, "was trained on all but fold 1 of other folds: it has seen images that fold 1"),
    ):
        checkpoint("w.safetensors", cfg, 1, **made_by)
        assert main(["train", "configs/second.toml", "--fold", str(fold)]) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    checkpoint("w.safetensors", cfg, FULL, folds=digest)
    assert main(["train", "configs/second.toml", "--fold", "1"]) == 2
    assert "was trained on the whole training set: it has seen" in capsys.readouterr().err.replace("\n", " ")


def test_an_encoder_alone_of_a_checkpoint_that_saw_held_out_images_is_refused_too(tiny, initial, capsys):
    cfg = config.load("configs/tiny.toml")
    weights = checkpoint("w.safetensors", cfg, 1, folds=table_digest(make_context(cfg).folds))
    second = write_config("second", 'weights = "w.safetensors"')
    started = initial(second, 1)
    encoder = [key for key in weights if key.startswith("net.encoder.")]
    assert all(torch.equal(started[key], weights[key]) for key in encoder)
    assert not equal(started, weights)
    assert main(["train", "configs/second.toml", "--fold", "2"]) == 2
    assert "w.safetensors was trained on all but fold 1: it has seen images" in capsys.readouterr().err


def test_a_checkpoint_file_of_another_competition_starts_any_fold_with_a_warning(tiny, initial, caplog):
    cfg = config.load("configs/tiny.toml")
    weights = checkpoint("w.safetensors", cfg, 4, competition="older")
    assert equal(initial(write_config("second", 'weights = "run:w.safetensors"'), 2), weights)
    assert (
        "w.safetensors: trained on older: whether its images include held-out or test images cannot be" in caplog.text
    )


# What fits.

MODEL = config.Model(encoder="tu-test_efficientnet", weights="none", in_channels=1, decoder_channels=(16, 16, 8, 8, 8))


def network(**changes):
    return build_model(MODEL.model_copy(update=changes))


@pytest.mark.parametrize("arch", ["unet", "fcn8s", "deeplabv3_aspp", "fpn"])
def test_a_head_of_other_classes_starts_anew(arch, caplog):
    torch.manual_seed(0)
    found, model = network(arch=arch, classes=2).state_dict(), network(arch=arch, classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with caplog.at_level("INFO"):
        load_network(model, found, Path("w"), classes=(2, 3), channels=(1, 1))
    heads = {key for key, value in before.items() if value.shape != found[key].shape}
    assert heads
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key] if key in heads else found[key])
    assert len(caplog.records) == 1
    assert "start anew; classes 2, now 3)" in caplog.text


@pytest.mark.parametrize("classes", [None, (2, 2)], ids=["as many classes as channels", "equal classes"])
@pytest.mark.parametrize(("before", "now"), [(1, 3), (3, 1), (3, 6), (2, 8)])
def test_an_input_layer_of_other_channels_is_adapted_as_for_an_encoders_file(before, now, classes, caplog):
    torch.manual_seed(0)
    classes = classes or (before, now)  # then the rules for heads and for the input must not mix
    found = network(in_channels=before, classes=classes[0]).state_dict()
    model = network(in_channels=now, classes=classes[1])
    with caplog.at_level("INFO"):
        load_network(model, found, Path("w"), classes=classes, channels=(before, now))
    loaded = model.state_dict()
    (key,) = [key for key in loaded if key.startswith("net.encoder") and loaded[key].shape != found[key].shape]
    kernels, adapted = found[key], loaded[key]
    grey = torch.ones(1, 1, 8, 8)
    same = [torch.conv2d(grey.expand(-1, each.shape[1], -1, -1), each) for each in (kernels, adapted)]
    torch.testing.assert_close(*same)
    assert f"input channels {before}, adapted to {now}" in caplog.text
    assert model.mean.shape[1] == now


def test_images_are_normalized_as_the_weights_were_trained():
    # Weights of one encoder's tags differ in their normalization, and the config's tag may be another.
    encoders = "tu-mobilenetv3_large_100.miil_in21k", "tu-mobilenetv3_large_100"
    trained, model = (network(encoder=encoder, in_channels=3).eval() for encoder in encoders)
    assert not torch.equal(model.mean, trained.mean)
    load_network(model, trained.state_dict(), Path("w"), classes=(1, 1), channels=(3, 3))
    images = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(model(images), trained(images))


def test_optional_heads_start_anew_or_are_left_out(caplog):
    plain, full = network().state_dict(), network(image_head=0.2, deep_supervision=0.5)
    with caplog.at_level("INFO"):
        load_network(full, plain, Path("w"), classes=(1, 1), channels=(1, 1))
    assert "(image_head.2, net.aux_heads.0, net.aux_heads.1" in caplog.text
    model = network()
    load_network(model, full.state_dict(), Path("w"), classes=(1, 1), channels=(1, 1))
    assert equal(model.state_dict(), {key: full.state_dict()[key] for key in plain})


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": "fpn"},
        {"decoder_channels": (32, 16, 8, 8, 8)},
        {"encoder": "tu-test_resnet"},
        {"encoder": "tu-test_maxvit", "img_size": 64},
    ],
)
def test_another_network_is_refused_in_one_line(changes):
    found = network(**changes).state_dict()
    resized = {**changes, "img_size": 128} if "img_size" in changes else {}
    message = r"model\.weights: w is of another network: this one has '.*Set the same arch.*the same crop"
    with pytest.raises(ValueError, match=message) as error:
        load_network(network(**resized), found, Path("w"), classes=(1, 1), channels=(1, 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("run:gone", r"model\.weights: configs/gone\.toml: no such file"),
        (
            "run:gone.safetensors",
            r"model\.weights: gone\.safetensors: no such file: expected a \.safetensors file of",
        ),
        ("run:second", r"model\.weights: second from second: a config cannot start from itself"),
        ("run:tiny/train.safetensors", r"train\.safetensors: not a checkpoint of this pipeline .*without run: to load"),
    ],
)
def test_weights_that_do_not_exist_are_refused_in_one_line(tiny, capsys, weights, message):
    Path("tiny/train.safetensors").write_bytes(b"no weights")
    write_config("second", f'weights = "{weights}"')
    assert main(["train", "configs/second.toml", "--fold", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, said), said


@pytest.mark.slow
def test_the_weights_of_a_start_do_not_depend_on_whether_its_source_was_trained_before(tiny, initial):
    # The image head starts at random: training the source in between must not advance its random numbers.
    write_config("first")
    second = write_config("second", 'weights = "run:first"', "image_head = 0.2")
    found = [initial(second, 0) for _ in range(2)]
    assert equal(*found)
    assert np.isfinite(found[0]["image_head.2.weight"].numpy()).all()


# Files of starting weights in a code bundle.


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No package with weights and an empty cache of the hub; conftest forbids the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("pipeline.models.packaged_weights._installed", lambda package: None)


def pack_and_attach(cfg, monkeypatch):
    """The code bundle of a config, attached to a notebook; its project is the current folder then."""
    monkeypatch.setattr("pipeline.stages.bundling.write_wheels", lambda folder, wheels: folder.mkdir(parents=True))
    root = Path("kaggle").resolve()
    write_code(root / "input/tiny-code", [make_context(cfg)])
    shutil.copytree("tiny", root / "input/tiny")
    (root / "working").mkdir()
    monkeypatch.chdir(root / "working")
    return config.load(f"configs/{cfg.name}.toml", set_up_project(root, root / "input/tiny-code", cfg.name))


def test_a_training_on_kaggle_starts_from_the_pretrained_weights_of_the_bundle(tiny, initial, offline, monkeypatch):
    served = timm.create_model("test_resnet").state_dict()
    Path("cached").mkdir()
    save_file(served, "cached/model.safetensors")
    cfg = write_config("second", 'weights = "imagenet"', old="tu-test_efficientnet", new="tu-test_resnet")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.models.pretrained.hub_file", lambda repository: Path("cached/model.safetensors"))
        here, there = initial(cfg, 0), pack_and_attach(cfg, monkeypatch)
    assert Path("pretrained/test_resnet.r160_in1k.safetensors").is_file()
    assert equal(initial(there, 0), here)
    assert torch.equal(here["net.encoder.model.conv1.0.weight"], served["conv1.0.weight"].sum(dim=1, keepdim=True))


def test_a_training_on_kaggle_starts_from_the_packaged_weights_of_the_bundle(tiny, initial, monkeypatch, request):
    lite = "tu-tf_efficientnet_lite0"
    cfg = write_config("second", 'weights = "imagenet"', old="tu-test_efficientnet", new=lite)
    here, there = initial(cfg, 0), pack_and_attach(cfg, monkeypatch)
    request.getfixturevalue("offline")
    assert equal(initial(there, 0), here)


@pytest.mark.parametrize("prefix", ["", "run:"])
def test_a_training_on_kaggle_starts_from_a_file_of_the_bundle(tiny, initial, offline, monkeypatch, prefix):
    cfg = config.load("configs/tiny.toml")
    Path("runs/older").mkdir(parents=True)
    checkpoint("runs/older/w.safetensors", cfg, 1, folds=table_digest(make_context(cfg).folds))
    cfg = write_config("second", f'weights = "{prefix}runs/older/w.safetensors"')
    here, there = initial(cfg, 1), pack_and_attach(cfg, monkeypatch)
    assert equal(initial(there, 1), here)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ("imagenet", "test_efficientnet.r160_in1k could not be downloaded"),
        ("weights/gone.pt", "model.weights: no file 'weights/gone.pt'"),
        ("../outside.pt", "expected a path below the project's folder, such as weights/outside.pt"),
        ("weights.tar", "weights.tar: expected a name that ends in .safetensors, .pt"),
    ],
)
def test_weights_that_a_bundle_cannot_have_are_logged(tiny, offline, monkeypatch, caplog, weights, reason):
    Path("../outside.pt").write_bytes(b"x"), Path("weights.tar").write_bytes(b"x")
    there = pack_and_attach(write_config("second", f'weights = "{weights}"'), monkeypatch)
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("configs/second.toml: its training notebook will not find its starting weights: ")
    assert reason in said
    assert there.model.weights == weights
    assert not [path for path in Path("../input/tiny-code").iterdir() if path.suffix in (".pt", ".tar", ".safetensors")]


def test_weights_of_an_earlier_code_bundle_are_removed(tiny, monkeypatch):
    cfg = config.load("configs/tiny.toml")
    monkeypatch.setattr("pipeline.stages.bundling.write_wheels", lambda folder, wheels: folder.mkdir(exist_ok=True))
    Path("code").mkdir()
    Path("code/pretrained-other.safetensors").write_bytes(b"x")
    write_code(Path("code"), [make_context(cfg)])
    assert not list(Path("code").glob("*.safetensors"))
