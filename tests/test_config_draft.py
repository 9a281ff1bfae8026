"""The drafted config: each rule by a planted fingerprint, its text, and what the command says."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import competition, config, stages
from pipeline.cli import main
from pipeline.competition import Competition
from pipeline.config import Transform
from pipeline.data.labels import Labels
from pipeline.planning.config_draft import draft_config
from pipeline.planning.config_options import ConfigDraft, Option
from pipeline.planning.config_text import to_text
from pipeline.planning.fingerprint import ClassShare, Fingerprint, Quantiles, Shift
from pipeline.planning.neighbouring_slices import Neighbours
from pipeline.stages.preflight import check_training
from pipeline.symmetries import SYMMETRIES
from tests.miniatures import LAYOUTS, write_miniature

ALL = tuple(name for name in SYMMETRIES if name != "identity")
FOUR_VIEWS = ["identity", "flip_horizontal", "flip_vertical", "rotate_180"]
PERCENTILES = [1, 99.8]


def same(value: float) -> Quantiles:
    return Quantiles(*[float(value)] * 5)


def between(low: float, median: float, high: float) -> Quantiles:
    return Quantiles(low, low, median, high, high)


# 400 grey images of 256 × 256 with objects of 20 pixels.
PLAIN = Fingerprint(
    images=400,
    test_images=100,
    decoded=200,
    groups=400,
    largest_group=1,
    near_duplicates=0,
    sizes=1,
    shorter=same(256),
    longer=same(256),
    test_shorter=same(256),
    test_longer=same(256),
    dtype="uint8",
    channels=1,
    equal_channels=1.0,
    lowest=same(5),
    highest=same(200),
    values=(5.0, 200.0),
    masked_values=(100.0, 200.0),
    nonfinite=0.0,
    nodata_values=(),
    empty=0.0,
    coverage=same(0.1),
    classes=(ClassShare("thing", 1.0, 0.1),),
    objects=same(10),
    diameter=same(20),
    extent=same(24),
    thickness=same(12),
    touching=None,
    neighbours=None,
    symmetries=("flip_horizontal",),
    symmetries_of="200 independent images",
    shift=Shift(0.5, False, ()),
    columns=(),
)


def card_of(name="nuclei", **changes) -> Competition:
    return competition.load(name).model_copy(update={"folds": None, **changes})


def draft(card: Competition | None = None, **changes) -> ConfigDraft:
    if "empty" in changes:  # of one class
        changes = {"classes": (ClassShare("thing", 1 - changes["empty"], 0.1),), **changes}
    return draft_config(card or card_of(), replace(PLAIN, **changes), "nuclei")


# ---------------------------------------------------------------------------------------------- size and crop


def test_images_of_one_small_size_are_trained_on_whole():
    assert draft().value("train.phases.0.crop") is None


@pytest.mark.parametrize(
    ("changes", "crop"),
    [
        ({"symmetries": ALL}, 192),  # three quarters of 256: turns by a quarter need a crop
        ({"sizes": 7, "longer": between(256, 256, 1272)}, 192),
        ({"shorter": same(512), "longer": same(512)}, 256),  # the largest, for small objects
        ({"shorter": same(512), "longer": same(512), "extent": same(220)}, 320),  # one and a half objects
        ({"shorter": same(720), "longer": same(960), "extent": same(700)}, 384),  # the largest for large objects
        ({"symmetries": ALL, "shorter": same(101), "longer": same(101)}, 128),  # filled up to the next multiple of 32
    ],
)
def test_crops(changes, crop):
    found = draft(**changes).find("train.phases.0.crop")
    assert found.value == crop
    assert found.value % 32 == 0
    assert "pixels" in found.reason


def test_the_reason_of_a_crop_names_sizes_and_objects():
    found = draft(sizes=7, longer=between(256, 256, 1272)).find("train.phases.1.crop")
    assert found.reason == "images are 256 to 1,272 pixels, objects 20 pixels (median)"


@pytest.mark.parametrize(
    ("side", "diameter", "thickness", "factor"),
    [
        (1600, 100, 60, 0.5),
        (1600, 20, 12, None),  # small objects forbid shrinking
        (1600, 100, 5, None),  # so do thin ones
        (700, 100, 60, None),  # the images are not large
        (2048, 400, 200, 0.25),
    ],
)
def test_images_are_shrunk_if_their_objects_stay_large(side, diameter, thickness, factor):
    drafted = draft(shorter=same(side), longer=same(side), diameter=same(diameter), thickness=same(thickness))
    assert drafted.value("data.size") == (factor and {"factor": factor})


LARGE = {"shorter": same(3000), "longer": same(4000), "diameter": same(15)}


def test_large_images_are_read_by_window_and_predicted_in_tiles():
    drafted = draft(**LARGE)
    crop = drafted.value("train.phases.0.crop")
    assert drafted.value("data.crops") == {"size": crop * 3 // 2, "stride": crop}
    assert drafted.value("predict.tiles") == {"size": 512, "stride": 384}
    assert drafted.value("train.balance") == "empty"
    assert drafted.value("predict.views") == ["identity"]


def test_large_images_have_a_window_of_values_instead_of_percentiles():
    drafted = draft(**LARGE, dtype="uint16", highest=between(100, 1000, 9000), values=(3.0, 5000.0))
    assert drafted.value("data.window") == [3, 5000]
    assert drafted.find("data.percentiles") is None


def test_large_images_of_exclusive_classes_are_read_whole():
    drafted = draft(card_of("camvid_demo"), **LARGE)
    assert drafted.find("data.crops") is None
    assert drafted.find("predict.tiles")
    assert draft(card_of("camvid_demo"), **LARGE, highest=between(40, 110, 250)).find("data.percentiles") is None


# ---------------------------------------------------------------------------------------------- values and channels


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"highest": between(40, 110, 250)}, "data.percentiles", PERCENTILES),  # exposure differs
        ({"dtype": "float32", "lowest": same(-1000), "masked_values": (-3.0, 224.0)}, "data.window", [-3, 224]),  # CT
        ({"dtype": "uint16", "values": (300.0, 9000.4)}, "data.window", [300, 9000]),  # alike in all images
        ({"dtype": "uint16", "highest": between(1000, 9000, 60000)}, "data.percentiles", PERCENTILES),
        (
            {"dtype": "float32", "lowest": same(0), "highest": same(1), "values": (0.01, 0.9)},
            "data.window",
            [0.01, 0.9],
        ),
        (
            {"dtype": "float32", "lowest": same(0), "highest": same(0), "values": (0.0, 0.0)},
            "data.percentiles",
            [1, 99.8],
        ),
    ],
)
def test_values_become_grey_levels(changes, key, value):
    drafted = draft(**changes)
    assert drafted.value(key) == value
    assert {"data.window", "data.percentiles"} - {option.key for option in drafted.options} != set()


def test_images_of_8_bits_and_one_exposure_stay_as_they_are():
    assert draft().find("data.percentiles") is draft().find("data.window") is None


def test_pixels_that_are_not_finite_are_filled():
    assert draft(nonfinite=0.02).value("data.nodata") == "zero"
    found = draft(nonfinite=0.02, nodata_values=(-32768.0,))
    assert (found.value("data.nodata"), found.value("data.nodata_values")) == ("zero", [-32768.0])


@pytest.mark.parametrize(
    ("channels", "equal", "expected"), [(1, 1.0, 1), (3, 1.0, 1), (3, 0.83, 3), (3, 0.0, 3), (8, 0.0, 8)]
)
def test_channels_of_the_network(channels, equal, expected):
    assert draft(channels=channels, equal_channels=equal).value("model.in_channels") == expected


def test_channels_of_several_files_are_those_of_the_card():
    assert draft(card_of("bands_demo"), channels=2, equal_channels=0.0).find("model.in_channels") is None


NEAR = Neighbours(series=24, slices=12.0, correlation=0.1, overlap=0.83)


def test_slices_that_have_much_in_common_see_their_neighbours():
    drafted = draft(neighbours=NEAR)
    assert drafted.value("data.neighbours") == 2
    assert drafted.find("model.in_channels") is None
    assert "0.83 (Dice)" in drafted.find("data.neighbours").reason


@pytest.mark.parametrize(
    "changes",
    [
        {"neighbours": NEAR._replace(overlap=0.05)},
        {"neighbours": NEAR._replace(slices=2.0)},
        {"neighbours": NEAR, "equal_channels": 0.5, "channels": 3},  # neighbours would turn colours to grey
    ],
)
def test_other_slices_do_not(changes):
    assert draft(**changes).find("data.neighbours") is None


# ---------------------------------------------------------------------------------------------- metric and masks


def losses(drafted: ConfigDraft) -> list[dict]:
    return [drafted.value(f"train.phases.{number}.loss") for number in (0, 1)]


def test_losses_of_a_metric_of_pixels():
    assert losses(draft()) == [{"bce": 1.0, "dice": 1.0}, {"lovasz": 1.0, "dice": 0.5}]


def test_losses_of_exclusive_classes():
    drafted = draft(card_of("camvid_demo"))
    assert losses(drafted) == [
        {"cross_entropy": 1.0, "dice_softmax": 1.0},
        {"lovasz_softmax": 1.0, "cross_entropy": 0.5},
    ]
    assert drafted.value("model.classes") == 6
    assert drafted.find("ensemble.shares") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coverage": same(0.015)}, "masks cover 1.5% of an image"),
        ({"thickness": same(8), "extent": between(20, 43, 512)}, "masks are thin, 8 of 512 pixels"),
        ({"empty": 0.7}, "Lovász scored lower on rare masks"),
    ],
)
def test_lovasz_is_left_out_where_it_scored_lower_or_was_not_measured(changes, words):
    found = draft(**changes).find("train.phases.1.loss")
    assert found.value == {"bce": 1.0, "dice": 1.0}
    assert words in found.reason


def test_soft_masks_have_no_lovasz():
    drafted = draft(card_of(annotators="mean"))
    assert "lovasz" not in drafted.value("train.phases.1.loss")


def test_mostly_empty_masks_are_balanced_and_summed_over_the_batch():
    drafted = draft(empty=0.7)
    assert drafted.value("train.balance") == "empty"
    assert drafted.value("train.phases.1.loss_options") == {"dice": {"over": "batch"}}
    assert draft(empty=0.4).find("train.balance") is None


def test_masks_are_mostly_empty_if_most_images_lack_most_classes():
    kinds = tuple(ClassShare(name, 0.3, 0.02) for name in ("scratch", "pit", "stain"))
    drafted = draft(empty=0.1, classes=kinds)
    assert drafted.find("train.balance") is None
    assert drafted.value("train.phases.0.loss_options") == {"dice": {"over": "batch"}}
    assert "70% of the masks are empty" in drafted.find("train.phases.0.loss_options").reason


def test_touching_objects_have_a_boundary():
    card = card_of("nuclei_instances")
    touching, apart = draft(card, touching=0.3), draft(card, touching=0.0)
    assert (touching.value("data.boundary"), touching.value("model.classes")) == (2.0, 2)
    assert apart.find("data.boundary") is apart.find("model.classes") is None
    assert "30% of the objects touch" in touching.find("data.boundary").reason


# ---------------------------------------------------------------------------------------------- augmentation and views

DIFFERENT = Shift(0.87, True, ("height 512 (train 256)",))


@pytest.mark.parametrize(
    ("changes", "augment", "views"),
    [
        ({"symmetries": ALL}, "medium", FOUR_VIEWS),
        (
            {"symmetries": ALL, "shift": DIFFERENT},
            "strong",
            ["identity", "flip_horizontal", "flip_vertical", "rotate_180"],
        ),
        ({}, "light", ["identity", "flip_horizontal"]),
        ({"symmetries": None, "symmetries_of": "3 images"}, "light", ["identity", "flip_horizontal"]),
    ],
)
def test_augmentation_and_views_are_the_symmetries_that_hold(changes, augment, views):
    drafted = draft(**changes)
    assert drafted.value("train.phases.0.augment") == drafted.value("train.phases.1.augment") == augment
    assert drafted.value("predict.views") == views


@pytest.mark.parametrize(
    ("symmetries", "flips"),
    [
        ((), set()),
        (("flip_vertical",), {"VerticalFlip"}),
        (("flip_horizontal", "flip_vertical", "rotate_180"), {"HorizontalFlip", "VerticalFlip"}),
        (("flip_horizontal", "flip_vertical"), {"HorizontalFlip"}),  # both together are a rotation, which does not hold
    ],
)
def test_other_symmetries_are_a_list_of_transforms(symmetries, flips):
    drafted = draft(symmetries=symmetries, shift=DIFFERENT if flips == {"HorizontalFlip"} else PLAIN.shift)
    names = {each.name for each in drafted.value("train.phases.0.augment")}
    assert {name for name in names if "Flip" in name or name == "D4"} == flips
    assert set(drafted.value("predict.views")) == {"identity", *symmetries}


def test_a_test_set_that_differs_has_no_rule_by_its_share():
    assert draft(shift=DIFFERENT).value("ensemble.shares") == ["image"]
    assert draft().value("ensemble.shares") == ["image", "test set"]
    assert draft(card_of("volumes_demo")).value("ensemble.shares") == ["image", "volume", "test set"]


# ---------------------------------------------------------------------------------------------- folds and schedule


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 5),
        ({"groups": 30, "largest_group": 24}, 5),
        ({"groups": 8, "largest_group": 60}, 3),
        ({"groups": 4, "largest_group": 100}, 2),
        ({"groups": 2, "largest_group": 300}, 2),
        ({"groups": 12, "largest_group": 190}, 3),  # a larger group than a fold of five may hold
        ({"images": 12, "groups": 12, "empty": 0.75}, 3),  # three images have a mask
    ],
)
def test_number_of_folds(changes, count):
    assert draft(**changes).value("folds.count") == count


def test_a_card_with_a_number_of_folds_keeps_it():
    assert draft(card_of(folds=3)).find("folds.count") is None
    assert draft(card_of(folds=3), groups=2, largest_group=200).value("folds.count") == 2


def test_one_group_is_split_with_a_warning():
    drafted = draft(groups=1, largest_group=400)
    assert drafted.value("folds.grouped") is False
    assert "the score is too high" in drafted.find("folds.grouped").reason


def test_columns_of_few_values_are_balanced():
    drafted = draft(columns=(("kind", {"a": 300, "b": 100}), ("site", {"x": 200, "y": 200})))
    assert drafted.value("folds.balance") == ["kind", "site"]
    assert drafted.find("folds.balance").reason == "kind: a (300), b (100); site: x (200), y (200)"


@pytest.mark.parametrize(
    ("images", "epochs", "repeats"), [(400, [6, 3], 1), (647, [4, 2], 1), (16, [6, 3], 32), (100_000, [4, 2], 1)]
)
def test_small_sets_are_repeated(images, epochs, repeats):
    drafted = draft(images=images, groups=images)
    assert [drafted.value(f"train.phases.{number}.epochs") for number in (0, 1)] == epochs
    assert drafted.value("train.phases.0.repeats", 1) == repeats


# ---------------------------------------------------------------------------------------------- options and text


def test_an_option_is_replaced_in_its_place_and_a_new_one_added():
    drafted = draft().with_option("predict.views", ["identity"], "budget").with_option("folds.only", [0], "budget")
    assert drafted.find("predict.views") == Option("predict.views", ["identity"], "budget")
    assert [each.key for each in drafted.options].count("predict.views") == 1
    assert drafted.options[-1] == Option("folds.only", [0], "budget")
    assert drafted.without("folds.only").find("folds.only") is None


def test_options_of_one_phase_and_of_all_phases():
    drafted = draft().with_option("train.phases.1.epochs", 9, "more").with_option("train.phases.*.crop", 128, "less")
    assert [drafted.value(f"train.phases.{number}.epochs") for number in (0, 1)] == [6, 9]
    assert [drafted.value(f"train.phases.{number}.crop") for number in (0, 1)] == [128, 128]
    assert drafted.value("train.phases.*.crop") == 128
    assert drafted.without("train.phases.0.crop").value("train.phases.0.crop", "none") == "none"


@pytest.mark.parametrize("key", ["train.phases.2.crop", "train.phases.x.crop"])
def test_a_phase_that_does_not_exist_is_refused(key):
    with pytest.raises(ValueError, match=re.escape(f"{key}: expected the number of one of 2 phases")):
        draft().with_option(key, 1, "")


def test_the_text_has_every_option_and_its_reason(tmp_path):
    drafted = draft(symmetries=(), empty=0.7, columns=(("kind", {"a\n]\x00": 300, "b": 100}),), **LARGE)
    text = to_text(drafted, ["A title\nof two lines " + "and many words " * 10, "", "end"])
    assert all(len(line) <= 120 for line in text.splitlines() if line.startswith("#"))
    words = " ".join(re.sub(r"\n# ", " ", text).split())
    for option in [*drafted.options, *drafted.phases[0], *drafted.phases[1]]:
        assert " ".join("".join(c if c.isprintable() else " " for c in option.reason).split()) in words, option
    (tmp_path / "x.toml").write_text(text, encoding="utf-8")
    cfg = config.load(tmp_path / "x.toml")
    assert cfg == config.parse(config.Config, {"name": "x", **drafted.tables()}, "x")
    assert tomllib.loads(text)["train"]["phases"][1]["augment"][0]["name"] == "Affine"


def test_values_are_written_as_toml():
    drafted = (
        draft()
        .with_option("data.root", 'a "b" \\c é', "")
        .with_option("train.phases.*.augment", [Transform(name="D4", p=1)], "")
    )
    found = tomllib.loads(to_text(drafted))
    assert found["data"]["root"] == 'a "b" \\c é'
    assert [phase["augment"] for phase in found["train"]["phases"]] == [[{"name": "D4", "p": 1.0}]] * 2


def any_fingerprint(rng: np.random.Generator) -> Fingerprint:
    """A fingerprint of random values, each of a plausible range."""

    def some(low: float, high: float) -> Quantiles:
        return Quantiles(*np.sort(np.exp(rng.uniform(np.log(low), np.log(high), 5))).tolist())

    def maybe(value):
        return value if rng.random() < 0.7 else None

    dtype = str(rng.choice(["uint8", "uint16", "float32", "bool", "int16"]))
    sign = -1 if dtype in ("float32", "int16") and rng.random() < 0.5 else 1
    size, images = some(16, 40_000), int(np.exp(rng.uniform(np.log(2), np.log(1e5))))
    is_one_size = rng.random() < 0.5
    groups = int(rng.integers(1, images + 1))
    objects = rng.random() < 0.8
    return replace(
        PLAIN,
        images=images,
        groups=groups,
        largest_group=images - groups + 1,
        near_duplicates=maybe(3),
        sizes=1 if is_one_size else 9,
        shorter=same(size.median) if is_one_size else size,
        longer=same(size.largest) if is_one_size else size,
        dtype=dtype,
        channels=int(rng.choice([1, 3, 5])),
        equal_channels=float(rng.choice([0.0, 0.5, 1.0])),
        lowest=some(1, 50)._replace(median=sign * float(rng.choice([0.0, 3.0, 1000.0]))),
        highest=some(1, 60_000),
        values=tuple(np.sort(rng.choice([0.0, 1e-7, 3e-7, 0.5, 1000.0], 2)).tolist()),
        masked_values=maybe((-3.0, 224.0)),
        nonfinite=float(rng.choice([0.0, 0.1])),
        empty=float(rng.random()),
        coverage=some(1e-5, 1) if objects else None,
        diameter=some(1, 3000) if objects else None,
        extent=some(1, 4000) if objects else None,
        thickness=some(1, 900) if objects else None,
        touching=maybe(float(rng.choice([0.0, 0.3]))),
        neighbours=maybe(Neighbours(2, 9.0, float(rng.uniform(-1, 1)), maybe(0.5))),
        symmetries=maybe(tuple(rng.choice(ALL, rng.integers(0, 8), replace=False).tolist())),
        shift=maybe(Shift(0.9, bool(rng.random() < 0.5), ("noise 3 (train 1)",))),
    )


CARDS = ["nuclei", "nuclei_instances", "camvid_demo", "volumes_demo", "bands_demo", "vesuvius-challenge-ink-detection"]


@pytest.mark.parametrize("name", CARDS)
def test_the_draft_of_any_fingerprint_is_a_valid_config(name, tmp_path):
    rng = np.random.default_rng(0)
    card = competition.load(name)
    for _ in range(200):
        found = any_fingerprint(rng)
        path = tmp_path / "x.toml"
        path.write_text(to_text(draft_config(card, found, name)), encoding="utf-8")
        cfg = config.load(path)
        assert Labels.of(card, cfg.data.boundary).channels == cfg.model.classes, found
        folds = cfg.folds.count if "count" in cfg.folds.model_fields_set else card.folds
        assert folds <= max(2, found.images), found
        window = cfg.data.window
        assert window is None or window[0] < window[1], found
        assert not (cfg.data.crops and not Labels.of(card, cfg.data.boundary).supports_windows), found
        for phase in cfg.train.phases:
            assert phase.crop is not None or (found.sizes == 1 and found.longer.largest <= 320), found
            assert cfg.data.crops is None or phase.crop <= cfg.data.crops.size, found


# ---------------------------------------------------------------------------------------------- the stage, the command


def test_the_command_writes_a_config_that_trains_and_prints_what_it_measured(tiny, capsys):
    assert main(["config", "mine", "--card", "tiny.toml", "--data", "tiny"]) == 0
    said = capsys.readouterr().out
    assert "18 training, 5 test; 18 decoded" in said
    assert "model.in_channels = 1  # images are grey" in said
    assert "make ensemble CONFIG=mine" in said
    cfg = config.load("configs/mine.toml")
    assert (cfg.competition, cfg.data.root) == ("tiny.toml", Path("tiny"))
    check_training(stages.make_context(cfg))


def test_an_existing_config_is_kept(tiny, capsys):
    before = Path("configs/tiny.toml").read_text()
    assert main(["config", "tiny", "--card", "tiny.toml", "--data", "tiny"]) == 0
    assert Path("configs/tiny.toml").read_text() == before
    assert "configs/tiny.toml exists and was kept" in capsys.readouterr().out


def test_the_card_of_a_name_is_in_the_folder_of_cards(tiny):
    Path("cards").mkdir()
    Path("tiny.toml").rename("cards/mine.toml")
    assert main(["config", "mine", "--data", "tiny"]) == 0
    assert config.load("configs/mine.toml").competition == "cards/mine.toml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config"], "no name: make config NAME=mine DATA=folder"),
        (["config", "mine"], "cards/mine.toml: no such card: make card DATA=folder NAME=mine drafts it"),
        (["config", "a/b", "--card", "tiny.toml"], "name 'a/b': expected one such as mine"),
        (["config", "mine", "--card", "nuclej"], "unknown competition 'nuclej'. Did you mean 'nuclei'?"),
        (["config", "mine", "--card", "tiny.toml", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(tiny, capsys, words, message):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not Path("configs/mine.toml").exists()


def test_a_metric_that_does_not_fit_is_one_line(tiny, edit, capsys):
    edit("tiny.toml", "mean_dice", "dsb_precision")
    assert main(["config", "mine", "--card", "tiny.toml", "--data", "tiny"]) == 2
    assert "metric 'dsb_precision' with instances = false" in capsys.readouterr().err


def test_a_table_without_images_is_one_line(tiny, capsys):
    Path("tiny/train.csv").write_text("id,rle_mask\n")
    assert main(["config", "mine", "--card", "tiny.toml", "--data", "tiny"]) == 2
    assert "tiny/train.csv" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_is_one_line_and_can_be_left_out(tiny, capsys):
    path = next(Path("tiny/train/images").iterdir())
    path.write_bytes(path.read_bytes()[:200])
    assert main(["config", "mine", "--card", "tiny.toml", "--data", "tiny"]) == 2
    assert path.name in capsys.readouterr().err.splitlines()[-1]
    assert main(["config", "mine", "--card", "tiny.toml", "--data", "tiny", "--skip-bad"]) == 0
    assert "17 training" in capsys.readouterr().out
    assert config.load("configs/mine.toml").data.skip_bad


def test_slices_of_a_single_volume_pass_the_checks_before_a_training(tiny, edit):
    edit("tiny.toml", "[files]", "volume_pattern = '(0)(.+)'\n\n[files]")
    for path in Path("tiny/train/images").iterdir():
        image = np.tile(np.arange(44, dtype=np.uint8) * 5, (36, 1))
        Image.fromarray(image).save(path)
    done = stages.draft_config("mine", "tiny.toml", Path("tiny"))
    assert (done.draft.value("data.neighbours"), done.draft.value("folds.grouped")) == (2, False)
    check_training(stages.make_context(config.load(done.path, ["data.doctor=false"])))


@pytest.mark.slow
@pytest.mark.parametrize("slug", LAYOUTS)
def test_the_drafted_config_of_each_competition_passes_the_checks_before_a_training(slug, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    write_miniature(slug, Path("data"))
    done = stages.draft_config("mini", slug.partition(",")[0], Path("data"))
    cfg = config.load(done.path)
    check_training(stages.make_context(cfg))
    assert all(option.reason for option in done.draft.options)


@pytest.mark.parametrize(("side", "batch"), [(256, None), (512, None), (520, 15), (1024, 4), (1500, 1)])
def test_large_images_are_predicted_few_at_once(side, batch):
    drafted = draft(longer=same(side), shorter=same(side), diameter=same(12))
    assert drafted.value("predict.batch_size") == batch


def test_a_large_test_image_counts_too():
    assert draft(test_longer=same(2048), test_shorter=same(1024)).value("predict.batch_size") == 2
