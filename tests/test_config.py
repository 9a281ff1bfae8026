"""Configs and cards: every error is one line that says where it is and how to fix it."""

import re
import tomllib
from pathlib import Path

import pytest

from pipeline import competition, config
from pipeline.data.labels import Labels
from pipeline.losses import build_loss
from pipeline.models import check_model
from pipeline.models.image_size import with_image_size
from pipeline.schema import override, parse

SHIPPED = sorted(Path(__file__).parents[1].glob("configs/*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_config_loads_with_its_card(path):
    cfg = config.load(path)
    assert cfg.name == path.stem
    assert Labels.of(competition.load(cfg.competition), cfg.data.boundary).channels == cfg.model.classes


def test_shipped_configs_exist():
    assert {"demo", "nuclei", "nuclei_mini", "heart", "salt"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "batchsize", r"tiny\.toml: unknown key 'batchsize' in \[train\]. Did you mean 'batch_size'\?"),
        ("epochs = 2", "epoch = 2", r"unknown key 'epoch' in \[train\.phases\.0\]. Did you mean 'epochs'\?"),
        ("batch_size", "seed", r"'seed' in \[train\]\. It is a key of the top level, \[folds\]\. Known here: acc"),
        (
            "count = 3",
            "crop = 3",
            r"unknown key 'crop' in \[folds\]\. It is a key of \[train\.phases\]\. Known here: b",
        ),
        ("[folds]", "[fold]", r"unknown key 'fold'. Did you mean 'folds'\?"),
        ("lr = 3e-3", 'lr = "fast"', r"train\.phases\.0\.lr: 'fast': expected a number"),
        ("lr = 3e-3", "lr = -1", r"train\.phases\.0\.lr: -1: expected more than 0"),
        ("in_channels = 1", "in_channels = 0", r"model\.in_channels: 0: expected 1 or more"),
        ('competition = "tiny.toml"', "", r"'competition' is missing"),
        ("count = 3", "count = ", r"not valid TOML.*line"),
    ],
)
def test_an_error_in_a_config_names_its_key(edit, old, new, message):
    edit("configs/tiny.toml", old, new)
    with pytest.raises(ValueError, match=message) as caught:
        config.load("configs/tiny.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("seed=1e30", "seed: 1e+30: expected a whole number of fewer digits"),
        ("seed=4294967296", "seed: 4294967296: expected less than 4294967296"),
        ("folds.seed=-1", "folds.seed: -1: expected 0 or more"),
        ("folds.count=1e6", "folds.count: 1000000.0: expected 1000 at most"),
        ("train.phases.0.crop=1", "train.phases.0.crop: 1: expected 8 or more"),
        ("train.phases.0.epochs=1e23", "train.phases.0.epochs: 1e+23: expected a whole number of fewer digits"),
        ("train.phases.0.epochs=2.5", "train.phases.0.epochs: 2.5: expected a whole number"),
        ("train.phases.0.lr=1e300", "train.phases.0.lr: 1e+300: expected 1000000 at most"),
        ("train.phases.0.lr=nan", "train.phases.0.lr: nan: expected a finite number"),
        ("train.weight_decay=inf", "train.weight_decay: inf: expected a finite number"),
        ("train.workers=1000000", "train.workers: 1000000: expected 1024 at most"),
        ("model.decoder_channels=[1e9]", "model.decoder_channels.0: 1000000000.0: expected 16384 at most"),
        ("predict.tiles={ size = 1e9 }", "predict.tiles.size: 1000000000.0: expected 16384 at most"),
        ("data.crops={ size = 1 }", "data.crops.size: 1: expected 8 or more"),
        ("data.skip_bad=3", "data.skip_bad: 3: expected true or false"),
        ("folds=3", "folds: 3: expected a table"),
    ],
)
def test_value_out_of_bounds_is_refused_with_the_expected_range(tiny, pair, message):
    with pytest.raises(ValueError, match=rf"^configs/tiny\.toml: {re.escape(message)}$"):
        config.load("configs/tiny.toml", [pair])


def test_long_value_or_key_is_shortened_in_messages(tiny):
    for pair in (f"train.phases.0.lr='{'x' * 5000}'", f"train.{'x' * 5000}=1", f"{'x' * 5000}.y=1"):
        with pytest.raises(ValueError, match="x…x") as caught:
            config.load("configs/tiny.toml", [pair])
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["epochs=5", "cycles=2"], r"phases\.0: epochs = 5 is not divisible by cycles = 2: set epochs = 6"),
        (["scale=[0.5, 2.0]"], r"phases\.0: scale \[0\.5, 2\.0\] changes sizes, so a batch needs a crop"),
        (["scale=[2.0, 0.5]", "crop=32"], r"scale \[2\.0, 0\.5\]: expected the smaller factor first"),
        (["mix={ cutmix = 0.6, mosaic = 0.5 }"], r"mix: probabilities sum to 1\.1, expected 1 at most"),
        (
            ["mix={ cutmixx = 0.6 }"],
            r"mix\.cutmixx.*'cutmix', 'mosaic', 'copy_paste', 'mixup', 'histogram' or 'fourier'",
        ),
        (["mix={ cutmix = 1.6 }"], r"phases\.0\.mix\.cutmix: 1\.6: expected 1 at most"),
        (["scale_p=0.5"], r"scale_p has no effect without a range of factors: set scale"),
        (["soup=1"], r"soup = 1 is the best epoch itself: set 2 or more"),
        (["swa=2"], r"phases\.0\.swa: 2: expected 1 at most"),
    ],
)
def test_an_error_in_the_options_of_a_phase_names_its_key(tiny, pairs, message):
    with pytest.raises(ValueError, match=message) as caught:
        config.load("configs/tiny.toml", [f"train.phases.0.{pair}" for pair in pairs])
    assert "\n" not in str(caught.value)


def test_patience_shorter_than_a_cycle_is_refused(tiny):
    pairs = ["train.phases.1.epochs=6", "train.phases.1.cycles=2"]
    with pytest.raises(ValueError, match=r"patience = 2 would end a cycle of phases\.1 .*set at least 3"):
        config.load("configs/tiny.toml", [*pairs, "train.patience=2"])
    assert config.load("configs/tiny.toml", [*pairs, "train.patience=3"]).train.patience == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{ from = "x", phases = [1, 3] }', r"pseudo\.phases: there is no phase 3: expected numbers from 1 to 2"),
        ('{ from = "x", low = 0.8 }', r"low = 0\.8, high = 0\.7: expected 0 < low <= high"),
        ('{ from = "x", low = 0.0 }', r"low = 0, high = 0\.7: expected 0 < low <= high"),
        ('{ from = "x", wieght = 1.0 }', r"unknown key 'wieght' in \[train\.pseudo\]. Did you mean 'weight'\?"),
        ("{ weight = 1.0 }", r"'train\.pseudo\.from' is missing"),
    ],
)
def test_an_error_in_the_pseudo_options_names_its_key(tiny, table, message):
    with pytest.raises(ValueError, match=message) as caught:
        config.load("configs/tiny.toml", [f"train.pseudo={table}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.batch_size=atuo", "train.batch_size: 'atuo': expected a whole number, or 'auto'"),
        ("train.batch_size=0", "train.batch_size: 0: expected 1 or more, or 'auto'"),
        ("train.phases.0.freeze_encoder=-1", "freeze_encoder: -1: expected true or false, or 1 or more"),
        ("train.phases.0.augment=3", "augment: 3: expected 'none', 'light', 'medium' or 'strong', or a list"),
        ("train.phases.0.augment=[{name='D4', p=2}]", "train.phases.0.augment.0.p: 2: expected 1 at most"),
        ("train.teacher={form='x'}", "unknown key 'form' in [train.teacher]. Did you mean 'from'?"),
        ("train.teacher={from=[]}", "train.teacher.from: expected a list of 1 or more"),
    ],
)
def test_an_error_in_an_option_of_several_types_names_what_each_would_be(tiny, pair, message):
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        config.load("configs/tiny.toml", [pair])


def test_pseudo_options_round_trip_with_the_key_from(tiny):
    cfg = config.load("configs/tiny.toml", ['train.pseudo={ from = "nuclei" }'])
    assert cfg.train.pseudo.from_ == "nuclei"
    assert config.Train.model_validate(cfg.train.model_dump(mode="json")) == cfg.train


def test_missing_config_suggests_the_nearest_name(tiny):
    with pytest.raises(FileNotFoundError, match=r"configs/tny\.toml: no such file. Did you mean 'tiny'\?"):
        config.load("configs/tny.toml")


def test_overrides_set_values_in_tables_lists_and_strings(tiny):
    pairs = ["train.batch_size=8", "train.phases.1.lr=3e-4", "model.encoder=tu-resnet18", "predict.views=['identity']"]
    cfg = config.load("configs/tiny.toml", pairs)
    assert cfg.train.batch_size == 8
    assert cfg.train.phases[1].lr == 3e-4
    assert cfg.model.encoder == "tu-resnet18"
    assert cfg.predict.views == ("identity",)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.batchsize=8", "Did you mean 'batch_size'"),
        ("train.batch_size", "expected key=value"),
        ("train.phases.7.lr=1", "not an entry of a list of 2"),
        ("competition.x=1", "inside a single value"),
    ],
)
def test_an_error_in_an_override_names_its_key(tiny, pair, message):
    with pytest.raises(ValueError, match=message):
        config.load("configs/tiny.toml", [pair])


def test_override_can_set_false_and_zero():
    assert override({"a": {"b": True}}, ["a.b=false", "a.c=0"]) == {"a": {"b": False, "c": 0}}


def test_config_is_frozen(tiny):
    cfg = config.load("configs/tiny.toml")
    with pytest.raises(ValueError, match="frozen"):
        cfg.seed = 3


@pytest.mark.parametrize("name", competition.known_cards())
def test_card_has_the_name_of_its_file(name):
    assert competition.load(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("mean_dice", "meandice", r"unknown metric 'meandice'. Did you mean 'mean_dice'\?"),
        ('rle = "rle_mask"', 'rel = "rle_mask"', r"unknown key 'rel' in \[columns\]. Did you mean 'rle'\?"),
        (
            "[columns]",
            '[dialect]\nordr = "row"\n[columns]',
            r"unknown key 'ordr' in \[dialect\]. Did you mean 'order'\?",
        ),
        ("[columns]", '[dialect]\norder = "diagonal"\n[columns]', r"dialect\.order: 'diagonal'"),
        ("[columns]", "[masks]\nvoid = 255\n[columns]", r"masks\.void is a value of mask images"),
        ("[columns]", "[masks]\nabove = 127\n[columns]", r"masks\.above needs mask images of one class"),
        ("[columns]", "[masks]\nbackground = 0\n[columns]", r"masks\.background needs masks\.values"),
        (
            "[columns]",
            "[masks]\nvalues = { disc = 3 }\nbackground = 3\n[columns]",
            r"\[masks\]: 3 has two meanings: set different values, void and background",
        ),
        ('train_csv = "train.csv"', "", r"set one of files\.train_csv .* files\.train_masks"),
    ],
)
def test_an_error_in_a_card_names_its_key(edit, old, new, message):
    edit("tiny.toml", old, new)
    with pytest.raises(ValueError, match=message):
        competition.load("tiny.toml")


OBJECTS = 'instances = true\nmetric = "dsb_precision"'


@pytest.mark.parametrize(
    ("top", "files", "masks", "message"),
    [
        (OBJECTS, "", "", r"instances from mask images: set masks\.objects = true .* or files\.mask_pattern"),
        (OBJECTS, "", "above = 0", "instances from mask images"),
        ('metric = "mean_dice"', "", "objects = true", r"masks\.objects needs instances = true .*: masks\.above = 0"),
        (OBJECTS, "", "objects = true\nvalues = { disc = 1 }", "each value is an object, .* leave out masks.values"),
        (OBJECTS, "", "objects = true\nabove = 3", "each value is an object, .* leave out masks.values, masks.above"),
        (OBJECTS + "\nseveral_rows = true", "", "objects = true", "each value is an object, .* and several_rows"),
        (OBJECTS, "", "objects = true\nvoid = 0", r"masks\.void = 0 is the background"),
        ('metric = "mean_dice"', "", "void = [0, 0, 0]", r"masks\.void = 0 is the background"),
        ('metric = "mean_dice"', 'train_csv = "train.csv"', "", r"set one of files\.train_csv"),
        ('metric = "mean_dice"', 'train_coco = "coco.json"', "", r"set one of .* and files\.train_coco"),
    ],
)
def test_an_error_in_the_mask_image_options_names_its_key(tiny, top, files, masks, message):
    text = (tiny / "tiny.toml").read_text().replace('metric = "mean_dice"', top)
    text = text.replace('train_csv = "train.csv"', f'train_masks = "masks"\n{files}')
    (tiny / "tiny.toml").write_text(f"{text}\n[masks]\n{masks}\n")
    with pytest.raises(ValueError, match=message) as caught:
        competition.load("tiny.toml")
    assert len(str(caught.value)) <= 300


def test_exclusive_classes_need_one_mask_image_per_image(tiny, edit):
    edit("tiny.toml", 'classes = ["disc"]', 'classes = ["disc", "rim"]\nexclusive = true\nseveral_rows = true')
    edit("tiny.toml", 'id = "id"', 'id = "id"\nid_separator = "_"')
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    edit("tiny.toml", "[columns]", "[masks]\nvalues = { disc = 1, rim = 2 }\n[columns]")
    with pytest.raises(
        ValueError, match=r"several_rows, and images_without_rows .* exclusive = true each pixel has a class"
    ):
        competition.load("tiny.toml")


def test_unknown_competition_suggests_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown competition 'nucleii'. Did you mean 'nuclei'\?"):
        competition.load("nucleii")


def toml_blocks(page: str) -> list[dict]:
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    return [tomllib.loads(block.split("```")[0]) for block in text.split("```toml\n")[1:]]


def test_losses_card_and_config_in_the_docs_are_valid():
    extra, tagged, distilled, augmented, sized, losses = toml_blocks("training.md")
    drafted_card, card, drafted_phase, choices, channels, neighbours = toml_blocks("competitions.md")
    assert competition.Competition.model_fields.keys() >= drafted_card.keys()
    phase = {**choices["train"]["phases"][0], **drafted_phase}
    assert parse(config.Phase, phase, "competitions.md").crop == 192
    assert set(build_loss(losses["loss"], losses["loss_options"]).losses) == {"lovasz", "bce"}
    check_model(parse(config.Model, tagged["model"], "training.md"))
    assert parse(competition.Competition, card, "competitions.md").columns.group == "patient"
    assert len(parse(config.Config, {"name": "docs", **choices}, "competitions.md").train.phases) == 2
    trained = [
        parse(config.Train, {**choices["train"], **each["train"]}, "training.md") for each in (distilled, augmented)
    ]
    phases = [{**choices["train"]["phases"][0], **each} for each in sized["train"]["phases"]]
    of_one_size = {"name": "docs", **choices, **sized, "train": {**choices["train"], "phases": phases}}
    assert with_image_size(parse(config.Config, of_one_size, "training.md")).model.img_size == 256
    assert trained[0].teacher == config.Teacher(from_=("unet", "fpn"))  # the others are the defaults
    data = [
        parse(config.Config, {"name": "docs", **choices, "data": each["data"]}, "docs").data
        for each in (extra, channels, neighbours)
    ]
    assert [each.csv for each in data[0].extra] == [None, "their_labels.csv"]
    assert [each.name for each in data[1].channels][:2] == ["red", "swir"]
    assert data[2].neighbours.offsets == 2
    card["files"] |= channels["files"]
    assert len(parse(competition.Competition, card, "competitions.md").files.channels) == 3


def test_configs_with_equal_options_from_different_files_are_equal(tiny):
    copy = tiny / "elsewhere" / "tiny.toml"
    copy.parent.mkdir()
    copy.write_text((tiny / "configs/tiny.toml").read_text())
    one, other = config.load("configs/tiny.toml"), config.load(copy)
    assert one == other
    assert (one.file, other.file) == ("configs/tiny.toml", str(copy))
    assert one != config.load(copy, ["seed=1"])


@pytest.mark.parametrize("size", ["data.size={factor=0.5}", "train.phases.1.size={longest=64}"])
def test_boundaries_of_pasted_objects_at_another_size_are_refused(size):
    pairs = ["data.boundary=2", size, "train.phases.0.mix={mosaic=0.2}", "train.phases.1.mix={mosaic=0.2}"]
    with pytest.raises(ValueError, match=r"phases\.[01]\.mix adds boundaries in pixels of the resized image"):
        config.load(SHIPPED[0].parent / "nuclei.toml", pairs)
    config.load(SHIPPED[0].parent / "nuclei.toml", [pairs[0], *pairs[2:]])


def test_mixup_and_a_boundary_channel_are_refused():
    with pytest.raises(ValueError, match=r"phases\.1\.mix\.mixup makes soft masks, in which data\.boundary has no"):
        config.load(SHIPPED[0].parent / "nuclei.toml", ["data.boundary=2", "train.phases.1.mix={mixup=0.2}"])


def test_folds_of_whole_kinds_are_not_balanced():
    with pytest.raises(ValueError, match="balance and hold_out: a fold of whole kinds cannot be balanced"):
        config.load(SHIPPED[0].parent / "nuclei.toml", ['folds.hold_out=["kind"]'])
