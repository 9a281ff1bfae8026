"""The doctor: a wrong dialect or misaligned masks are detected from the images, and correct ones pass."""

import re
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import study_doctor
from PIL import Image

from pipeline.cli import main
from pipeline.competition import Leaderboard
from pipeline.competition import load as load_card
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.doctor.alignment import VIEWS, check_alignment
from pipeline.doctor.dialects import check_dialect
from pipeline.doctor.findings import check_pixels, check_sample, check_sizes, find_stripe
from pipeline.doctor.label_pairs import check_label_sources
from pipeline.rle import Dialect
from pipeline.symmetries import SYMMETRIES
from tests.conftest import write_tiny
from tests.miniatures import runs_of

COUNT = 60
SHAPES = {"square": (48, 48), "oblong": (36, 60)}
DIALECTS = [
    Dialect(order, base, relative) for order in ("column", "row") for base, relative in ((1, 0), (0, 0), (1, 1))
]


def write(mask, dialect):
    """Encode a mask in a dialect, by loops."""
    words, end = [], 0
    for start, length in runs_of(mask, dialect.order):
        words += [start - end if dialect.relative else start + dialect.base, length]
        end = start + length
    return " ".join(map(str, words))


def pictures(shape, seed=0):
    """Noisy blurred images with a few bright ellipses, and their masks."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for _ in range(COUNT):
        mask = np.zeros(shape, np.uint8)
        for _ in range(rng.integers(1, 4)):
            (y, x), (tall, wide) = rng.uniform((6, 6), np.array(shape) - 6), rng.uniform(4, 10, 2)
            mask |= (((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < 1).astype(np.uint8)
        image = cv2.GaussianBlur(60 + 80.0 * mask, (0, 0), 1.0) + rng.normal(0, 12, shape)
        yield image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module", params=SHAPES)
def visible_pairs(request):
    return list(pictures(SHAPES[request.param]))


def samples(visible_pairs, dialect):
    return [(image, [write(mask, dialect)]) for image, mask in visible_pairs]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_masks_in_the_dialect_of_the_card_pass(visible_pairs, dialect):
    verdict = check_dialect(samples(visible_pairs, dialect), dialect)
    assert (verdict.status, verdict.correction) == ("ok", None)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("declared", DIALECTS)
def test_a_dialect_that_differs_from_the_card_is_named(visible_pairs, dialect, declared):
    if declared == dialect:
        return
    verdict = check_dialect(samples(visible_pairs, dialect), declared)
    if verdict.status == "ok":  # read in the other base; no mask touches the first or last pixel
        assert (declared.order, declared.relative) == (dialect.order, dialect.relative)
        assert verdict.warning.endswith(f"[dialect] base = {dialect.base}")
        return
    assert verdict.status == "misread"
    better = verdict.correction
    assert (better.order, better.relative) == (dialect.order, dialect.relative)
    if declared.order != dialect.order:
        assert f'order = "{dialect.order}"' in verdict.message


def test_transposed_images_are_detected(visible_pairs):
    turned = [(image.T.copy(), texts) for image, texts in samples(visible_pairs, Dialect())]
    verdict = check_dialect(turned, Dialect())
    assert (verdict.status, verdict.correction) == ("misread", Dialect(order="row"))
    assert "or images are transposed" in verdict.message


def test_shuffled_rows_are_detected(visible_pairs):
    images, texts = zip(*samples(visible_pairs, Dialect()), strict=True)
    shuffled = np.random.default_rng(0).permutation(COUNT)
    verdict = check_dialect([(images[i], texts[j]) for i, j in enumerate(shuffled)], Dialect())
    assert verdict.status == "shuffled"
    assert "are rows or ids shuffled" in verdict.message


def test_a_few_wrong_rows_do_not_suggest_another_dialect(visible_pairs):
    few = [*samples(visible_pairs[:5], Dialect(order="row")), *samples(visible_pairs[5:], Dialect())]
    assert check_dialect(few, Dialect()).status == "ok"


@pytest.mark.parametrize("seed", range(5))
def test_images_unrelated_to_their_masks_do_not_suggest_another_dialect(seed):
    rng = np.random.default_rng(seed)
    blind = [(rng.integers(0, 255, mask.shape).astype(np.uint8), mask) for _, mask in pictures((48, 48), seed)]
    assert check_dialect(samples(blind, Dialect()), Dialect()).correction is None


def test_few_images_give_an_inconclusive_dialect_check(visible_pairs):
    verdict = check_dialect(samples(visible_pairs[:5], Dialect(order="row")), Dialect())
    assert (verdict.status, "too few" in verdict.message) == ("inconclusive", True)


def test_masks_in_list_form_are_checked_as_lists(visible_pairs):
    listed = [
        (image, [f"[{', '.join(text.split())}]" for text in texts])
        for image, texts in samples(visible_pairs, Dialect())
    ]
    assert check_dialect(listed, Dialect(form="list")).status == "ok"
    assert check_dialect(listed, Dialect(form="list", order="row")).correction == Dialect(form="list")


# Correct cards of data sets with misleading edges, and the mistakes that are detected in them.

FEW = {name: kind._replace(images=100 if name == "defects" else 24) for name, kind in study_doctor.KINDS.items()}


@pytest.fixture(scope="module")
def draw_pairs():
    """The pairs of a kind and shape, generated once."""
    return lru_cache(maxsize=None)(lambda name, shape: study_doctor.draw_set(FEW[name], shape, 0))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["square", "oblong"])
@pytest.mark.parametrize("name", FEW)
def test_correct_masks_are_never_reported_as_bad(draw_pairs, name, shape):
    pairs = draw_pairs(name, shape)
    verdict = check_dialect(samples(pairs, Dialect()), Dialect())
    assert {verdict.status, check_alignment(pairs).status} <= {"ok", "inconclusive"}
    assert verdict.warning is None


@pytest.mark.parametrize("name", FEW)
def test_the_wrong_order_of_non_square_masks_is_always_detected(draw_pairs, name):
    verdict = check_dialect(samples(draw_pairs(name, "oblong"), Dialect()), Dialect(order="row"))
    assert (verdict.status, verdict.correction) == ("misread", Dialect())


@pytest.mark.parametrize("name", study_doctor.VISIBLE)
def test_transposed_square_masks_are_detected_if_images_show_the_objects(draw_pairs, name):
    verdict = check_dialect(samples(draw_pairs(name, "square"), Dialect()), Dialect(order="row"))
    assert (verdict.status, verdict.correction) == ("misread", Dialect())


def test_masks_of_whole_columns_do_not_suggest_another_order():
    # In both orders the masks are whole lines, with outlines as long as the height or width of the image.
    mask = np.zeros((120, 40), np.uint8)
    mask[:, 10:17] = 1
    noise = np.random.default_rng(0).integers(0, 255, (20, *mask.shape)).astype(np.uint8)
    bands = [(image, np.roll(mask, number, axis=1)) for number, image in enumerate(noise)]
    assert check_dialect(samples(bands, Dialect()), Dialect()).status == "inconclusive"


def test_similar_masks_of_neighbouring_slices_are_inconclusive():
    # By chance, all slices of a volume fit better if flipped or rotated.
    kind = study_doctor.Kind(study_doctor.slices, 30, (64, 64), (64, 64))
    assert {check_alignment(study_doctor.draw_set(kind, "square", seed)).status for seed in range(4)} == {
        "inconclusive"
    }


def test_a_table_shifted_by_one_row_is_detected(visible_pairs):
    images, texts = zip(*samples(visible_pairs, Dialect()), strict=True)
    verdict = check_dialect(list(zip(images, [*texts[1:], texts[0]], strict=True)), Dialect())
    assert (verdict.status, verdict.correction) == ("shuffled", None)


def test_a_different_base_is_a_warning_and_not_an_error(visible_pairs):
    for declared, other in ((0, 1), (1, 0)):
        # A mask on the first or last pixel would prove the base.
        inside = [(image, mask) for image, mask in visible_pairs if not (mask[0, 0] or mask[-1, -1])]
        verdict = check_dialect(samples(inside, Dialect(base=other)), Dialect(base=declared))
        assert (verdict.status, verdict.warning.endswith(f"[dialect] base = {other}")) == ("ok", True)
        assert check_dialect(samples(inside, Dialect(base=other)), Dialect(base=other)).warning is None


@pytest.mark.parametrize(("declared", "corner"), [(Dialect(), (0, 0)), (Dialect(base=0), (-1, -1))])
def test_a_run_outside_the_image_proves_the_other_base(visible_pairs, declared, corner):
    true = Dialect(base=1 - declared.base)
    masks = [mask.copy() for _, mask in visible_pairs]
    masks[3][corner] = 1
    verdict = check_dialect(
        [(image, [write(mask, true)]) for (image, _), mask in zip(visible_pairs, masks, strict=True)], declared
    )
    assert (verdict.status, verdict.correction) == ("misread", true)


# Mask images.

FITTING = [(shape, view) for shape in SHAPES for view in VIEWS[: 7 if shape == "square" else 3]]


def scenes(shape, seed=0):
    """Like `pictures`, with three classes: the lower part has another brightness and class."""
    for image, mask in pictures(shape, seed):
        labels = mask + (np.arange(shape[0])[:, None] > shape[0] * 0.7) * np.uint8(2)
        yield (image + 25.0 * (labels > 1)).clip(0, 255).astype(np.uint8), labels


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("draw", [pictures, scenes])
def test_aligned_masks_pass(draw, shape, seed):
    verdict = check_alignment(list(draw(SHAPES[shape], seed)))
    assert (verdict.status, verdict.correction) == ("ok", None)


@pytest.mark.parametrize(("shape", "view"), FITTING)
@pytest.mark.parametrize("draw", [pictures, scenes])
def test_transformed_masks_are_detected_with_the_correcting_symmetry(draw, shape, view):
    turned = [(image, SYMMETRIES[view].inverse(mask)) for image, mask in draw(SHAPES[shape])]
    verdict = check_alignment(turned)
    assert (verdict.status, verdict.correction) == ("misread", view)
    assert f"fit their images better after {view} (" in verdict.message


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("draw", [pictures, scenes])
def test_masks_of_other_images_are_detected(draw, seed):
    images, masks = zip(*draw((48, 48), seed), strict=True)
    order = np.random.default_rng(seed).permutation(COUNT)
    verdict = check_alignment([(image, masks[place]) for image, place in zip(images, order, strict=True)])
    assert (verdict.status, verdict.correction) == ("shuffled", None)
    assert "files.mask_pattern" in verdict.message


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("count", [10, COUNT])
def test_images_unrelated_to_their_masks_do_not_suggest_a_symmetry(seed, count):
    rng = np.random.default_rng(seed)
    blind = [(rng.integers(0, 255, mask.shape).astype(np.uint8), mask) for _, mask in pictures((48, 48), seed)]
    assert check_alignment(blind[:count]).correction is None


def test_a_few_flipped_masks_do_not_suggest_a_symmetry(visible_pairs):
    few = [(image, mask[:, ::-1]) for image, mask in visible_pairs[:5]]
    assert check_alignment([*few, *visible_pairs[5:]]).status == "ok"


def test_few_masks_give_an_inconclusive_alignment_check(visible_pairs):
    verdict = check_alignment([(image, mask[:, ::-1]) for image, mask in visible_pairs[:9]])
    assert (verdict.status, "9 images with masks are too few" in verdict.message) == ("inconclusive", True)


def test_large_masks_are_checked_like_small_ones():
    def enlarged(pixels):
        return np.kron(pixels, np.ones((13, 13), np.uint8))  # larger than the size to which images are reduced

    large = [(enlarged(image), enlarged(mask)) for image, mask in list(pictures((48, 48)))[:20]]
    assert check_alignment(large).status == "ok"
    assert check_alignment([(image, mask.T) for image, mask in large]).correction == "transpose"


# Findings.


def test_stripes_are_found_on_each_side():
    image = np.random.default_rng(0).integers(1, 255, (40, 60, 3)).astype(np.uint8)
    assert find_stripe(image) is None
    for side, part in (
        ("top", np.s_[:3]),
        ("bottom", np.s_[-3:]),
        ("left", np.s_[:, :4]),
        ("right", np.s_[:, -4:]),
    ):
        padded = image.copy()
        padded[part] = 0
        assert find_stripe(padded) == side


def test_pixel_values_that_need_another_setting_are_reported():
    def messages(**pictures):
        return " ".join(finding.message for finding in check_pixels(pictures) if finding.level != "good")

    noise = np.random.default_rng(0).integers(0, 4096, (9, 9, 1))
    narrow = {"a": noise.astype(np.uint16)}
    assert "set data.window" in messages(**narrow)
    assert all(finding.level == "good" for finding in check_pixels(narrow, scaled=True)), "it is set"
    assert not messages(a=(noise // 16).astype(np.uint8))
    assert "6% of their range" in messages(a=noise.astype(np.uint16))
    assert "only 0 and 1" in messages(a=(noise > 99).astype(np.uint8))
    assert "several dtypes: set data.window" in messages(a=noise.astype(np.uint16), b=(noise // 16).astype(np.uint8))
    assert "such as 'b'" in messages(a=(noise // 16).astype(np.uint8), b=np.full((9, 9, 1), 7, np.uint8))


def sample_of(card, *keys):
    """Findings about the rows (image, class) of a sample submission, by check."""
    rows = pd.DataFrame(keys, columns=["image_id", "label"])
    sample = rows.assign(rle="").set_axis(["id", "class", "rle_mask"], axis=1)
    return {finding.check: finding for finding in check_sample(card, sample, rows)}


def test_rows_of_a_sample_are_compared_with_images_and_classes(card):
    assert sample_of(card, ("a", "disc"), ("b", "disc"))["sample's rows"][0] == "good"
    level, _, found = sample_of(card, ("a", "disc"), ("b", "disc"), ("a", "disc"))["sample's rows"]
    assert (level, found) == ("look", "3 rows of 2 images: expected 2 rows, some rows are repeated")
    two = card.model_copy(update={"classes": ("disc", "rim")})
    level, _, found = sample_of(two, ("a", "disc"), ("a", "rim"), ("b", "rim"))["sample's rows"]
    assert (level, "1 of 2 images lack rows for some classes" in found) == ("look", True)
    parts = card.model_copy(update={"several_rows": True})
    assert sample_of(parts, ("a", "disc"), ("a", "disc"))["sample's rows"][0] == "good"


def test_images_of_a_sample_are_compared_with_the_leaderboard_of_the_card(card):
    known = card.model_copy(update={"leaderboard": Leaderboard(images=2)})
    assert "sample's images" not in sample_of(known, ("a", "disc"), ("b", "disc"))
    level, _, found = sample_of(known, ("a", "disc"))["sample's images"]
    assert (level, "1, but leaderboard.images of the card is 2: " in found) == ("look", True)


def test_sizes_that_occur_only_in_the_test_set_are_reported():
    train = pd.DataFrame({"height": [9, 9], "width": [8, 8]})
    assert check_sizes(train, train).level == "good"
    new = check_sizes(train, pd.DataFrame({"height": [9, 5], "width": [8, 4]}))
    assert (new.level, "5×4" in new.message) == ("look", True)


# The command.


@pytest.fixture
def competition(tiny):
    """Replace the tiny competition by one with enough images for the checks."""
    for path in sorted(Path("tiny").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write_tiny(Path("tiny"), train=120)
    return tiny


def doctor(capsys, command="doctor", *options):
    status = main([command, "configs/tiny.toml", *options])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.strip()


def rewrite(dialect):
    """Write the training masks in another dialect; the card is not changed."""
    lines = ["id,rle_mask"]
    for row in Path("tiny/train.csv").read_text().splitlines()[1:]:
        image_id, text = row.split(",")
        lines.append(f"{image_id},{write(Dialect().decode(text, (36, 44)), dialect)}")
    Path("tiny/train.csv").write_text("\n".join(lines) + "\n")


def test_a_correct_competition_passes(competition, capsys):
    status, out, err = doctor(capsys)
    assert (status, err) == (0, "")
    assert "bad" not in out
    assert "good  dialect" in out
    with Image.open("reports/tiny-doctor.png") as picture:
        assert picture.size[0] > 900


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dialect", "answer"),
    [(Dialect(order="row"), 'order = "row"'), (Dialect(relative=True), "relative = true")],
    ids=["row as column", "relative as absolute"],
)
def test_a_wrong_card_exits_2_with_the_correction(competition, capsys, dialect, answer):
    rewrite(dialect)
    status, out, err = doctor(capsys)
    assert status == 2
    assert "would spoil a submission" in err
    assert f"set [dialect] {answer}" in out
    assert Path("reports/tiny-doctor.png").exists()


@pytest.mark.slow
def test_training_on_misaligned_masks_is_refused(competition, capsys, monkeypatch):
    rewrite(Dialect(order="row"))
    trained = []
    monkeypatch.setattr("pipeline.stages.training._fit", lambda *args: trained.append(1))
    status, _, err = doctor(capsys, "train", "--fold", "0")
    assert (status, trained) == (2, [])
    assert '[dialect] order = "row"' in err.splitlines()[-1]
    assert "data.doctor=false" in err.splitlines()[-1]
    monkeypatch.setattr("pipeline.stages.training.fill_store", lambda *args: None)
    monkeypatch.setattr("pipeline.stages.training.scores_at_half", lambda *args: np.zeros(1))
    status, _, err = doctor(capsys, "train", "--fold", "0", "--set", "data.doctor=false")
    assert (status, trained) == (0, [1])


def test_shuffled_rows_exit_2(competition, capsys):
    lines = Path("tiny/train.csv").read_text().splitlines()
    ids, texts = zip(*(line.split(",") for line in lines[1:]), strict=True)
    texts = np.random.default_rng(0).permutation(texts)
    Path("tiny/train.csv").write_text("\n".join([lines[0], *map(",".join, zip(ids, texts, strict=True))]) + "\n")
    status, out, _ = doctor(capsys)
    assert (status, "shuffled" in out) == (2, True)


def test_a_sample_submission_with_other_columns_is_reported(competition, capsys):
    path = Path("tiny/sample_submission.csv")
    path.write_text(path.read_text().replace("rle_mask", "EncodedPixels"))
    status, out, _ = doctor(capsys)
    assert status == 2
    assert "id, EncodedPixels: the card expects id, rle_mask" in out


def test_a_broken_image_is_reported(competition, capsys):
    path = Path("tiny/train/images/0919.png")
    path.write_bytes(path.read_bytes()[:300])
    status, out, _ = doctor(capsys)
    assert (status, "bad   image" in out or "bad  image" in out) == (2, True)


def empty_masks():
    rows = [row.split(",")[0] for row in Path("tiny/train.csv").read_text().splitlines()[1:]]
    Path("tiny/train.csv").write_text("\n".join(["id,rle_mask", *(f"{image_id}," for image_id in rows)]) + "\n")


def test_empty_masks_only_are_reported_as_bad(competition, capsys):
    empty_masks()
    status, out, _ = doctor(capsys)
    assert (status, "this class cannot be learned" in out) == (2, True)


def test_errors_of_the_index_are_reported(competition, capsys):
    Path("tiny/train/images/0919.png").unlink()
    status, out, _ = doctor(capsys)
    assert status == 2
    assert "such as '0919'" in out


# Masks in a folder.


def write_mask_files(change):
    """Write the tiny competition with 120 square images and mask images, changed by a function of their list."""
    for path in sorted(Path("tiny").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    write_tiny(Path("tiny"), train=120, size=(40, 40))
    rows = [row.split(",") for row in Path("tiny/train.csv").read_text().splitlines()[1:]]
    ids, texts = zip(*sorted(rows), strict=True)
    Path("tiny/train/masks").mkdir()
    for image_id, mask in zip(ids, change([Dialect().decode(text, (40, 40)) for text in texts]), strict=True):
        Image.fromarray(np.ascontiguousarray(mask) * np.uint8(255)).save(f"tiny/train/masks/{image_id}.png")
    card = Path("tiny.toml")
    card.write_text(card.read_text().replace('train_csv = "train.csv"', 'train_masks = "train/masks"'))


MISTAKES = {
    "transposed": (lambda masks: [mask.T for mask in masks], "fit their images better after transpose"),
    "mirrored": (lambda masks: [mask[::-1] for mask in masks], "fit their images better after flip_vertical"),
    "shuffled": (
        lambda masks: [masks[place] for place in np.random.default_rng(1).permutation(120)],
        "are rows or ids shuffled",
    ),
}


@pytest.mark.slow
def test_inverted_masks_are_pointed_out_with_the_keys_that_correct_them(tiny, capsys):
    write_mask_files(lambda masks: [1 - mask for mask in masks])
    name = load_card("tiny.toml").classes[0]
    advice = f"masks.values = {{ {name} = 0 }}, and masks.background to the other value"
    _, out, _ = doctor(capsys)
    assert f"if the object is black in the mask files, set {advice}" in " ".join(out.split())
    with Path("tiny.toml").open("a") as card:
        card.write(f"\n[masks]\nvalues = {{ {name} = 0 }}\nbackground = 255\n")
    status, out, err = doctor(capsys)
    assert (status, err, "is black in" in out) == (0, "", False)


@pytest.mark.slow
def test_a_correct_folder_of_masks_passes(tiny, capsys):
    write_mask_files(lambda masks: masks)
    status, out, err = doctor(capsys)
    assert (status, err, "bad" in out) == (0, "", False)
    assert "good  alignment" in out


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_folder_of_masks_exits_2_with_the_correction_and_a_picture(tiny, capsys, mistake):
    change, answer = MISTAKES[mistake]
    write_mask_files(change)
    status, out, _ = doctor(capsys)
    assert (status, answer in " ".join(out.split())) == (2, True)
    with Image.open("reports/tiny-doctor.png") as picture:
        assert picture.size[0] > 900


def test_training_is_refused_on_transposed_masks_with_a_picture(tiny, capsys, monkeypatch):
    write_mask_files(MISTAKES["transposed"][0])
    monkeypatch.setattr("pipeline.stages.training._fit", lambda *args: pytest.fail("trained"))
    status, _, err = doctor(capsys, "train", "--fold", "0")
    assert (status, "fit their images better after transpose" in err) == (2, True)
    assert "See reports/tiny-doctor.png" in err.splitlines()[-1]
    assert Path("reports/tiny-doctor.png").exists()


# Tables and mask images.


def write_both(change=lambda mask: mask):
    """Add mask images to the tiny competition with its table."""
    for row in Path("tiny/train.csv").read_text().splitlines()[1:]:
        image_id, text = row.split(",")
        write_mask(Path("tiny/train/masks") / f"{image_id}.png", change(Dialect().decode(text, (36, 44))) * 255)


def write_mask(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).save(path)


def beside():
    """Findings about label sources that the card does not use: level and message."""
    card = load_card("tiny.toml")
    return [
        (level, found) for level, _, found in check_label_sources(card, Path("tiny"), read_index(card, Path("tiny")))
    ]


def test_mask_images_and_a_table_that_agree_pass(tiny, edit):
    write_both()
    assert beside() == [("good", "train.csv and train/masks agree in 12 images")]
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    assert beside() == [("good", "train.csv and train/masks agree in 12 images")]


def test_a_single_label_source_is_not_compared(tiny):
    assert beside() == []


@pytest.mark.parametrize(
    ("dialect", "level", "answer"),
    [
        (Dialect(order="row"), "bad", '[dialect] order = "row"'),
        (Dialect(relative=True), "bad", "[dialect] relative = true"),
        (Dialect(base=0), "look", "[dialect] base = 0"),
    ],
)
def test_a_table_in_another_dialect_than_the_mask_images_is_reported(tiny, edit, dialect, level, answer):
    write_both()
    rewrite(dialect)
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    ((said, found),) = beside()
    assert (said, found.endswith(f"but agree with {answer}")) == (level, True)


def test_wrong_values_of_mask_images_are_corrected_from_the_table(tiny, edit):
    lines = ["id,class,rle_mask"]
    for number, path in enumerate(sorted(Path("tiny/train/images").iterdir())):
        codes = np.random.default_rng(number).integers(0, 3, (9, 11)).repeat(4, axis=0).repeat(4, axis=1)
        write_mask(Path("tiny/train/masks") / path.name, codes)
        lines += [f"{path.stem},{name},{Dialect().encode(codes == value)}" for name, value in (("a", 1), ("b", 2))]
    Path("tiny/train.csv").write_text("\n".join(lines) + "\n")
    edit("tiny.toml", 'classes = ["disc"]', 'classes = ["a", "b"]')
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "train/masks"')
    edit("tiny.toml", 'id = "id"', 'id = "id"\nclass = "class"')
    with Path("tiny.toml").open("a") as card:
        card.write("\n[masks]\nvalues = { a = 0, b = 1 }\nbackground = 2\n")
    ((level, found),) = beside()
    assert (level, found.endswith("but agree with [masks] values = { a = 1, b = 2 }")) == ("bad", True)


def test_mask_images_that_differ_from_the_table_are_reported(tiny):
    write_both(lambda mask: np.roll(mask, 9, axis=1))
    ((level, found),) = beside()
    assert (level, "which labels are right" in found) == ("look", True)


# Several errors in one run.


def test_all_errors_are_reported_in_one_run(competition, capsys):
    images = Path("tiny/train/images")
    ids = sorted(path.stem for path in images.iterdir())
    (images / f"{ids[0]}.png").unlink()
    (images / "stranger.png").write_bytes((images / f"{ids[1]}.png").read_bytes())
    (images / f"{ids[2]}.png").write_text("no image")
    lines = Path("tiny/train.csv").read_text().splitlines()
    lines[1:] = [f"{ids[3]},5 1 7" if line.startswith(ids[3]) else line for line in lines[1:]]
    Path("tiny/train.csv").write_text("\n".join(lines) + "\n")
    next(Path("tiny/test/images").iterdir()).unlink()
    sample = Path("tiny/sample_submission.csv")
    sample.write_text(sample.read_text().replace("rle_mask", "EncodedPixels"))
    status, out, err = doctor(capsys)
    said = " ".join(out.split())
    assert status == 2
    for fault in (
        f"no image for 1 of 120 training ids in train.csv, such as '{ids[0]}'",
        "such as 'stranger.png'",
        f"{ids[2]}.png: not an image",
        f"id '{ids[3]}': ",
        "tiny/test/images: no image for 1 of 5 test ids",
        "the card expects id, rle_mask",
    ):
        assert fault in said
    assert "7 of " in err  # a sample without the column has no placeholder either


def test_errors_of_one_kind_are_counted_after_the_third(tiny, capsys):
    write_mask_files(lambda masks: [mask * np.uint8(7 if number % 2 else 1) for number, mask in enumerate(masks)])
    status, out, _ = doctor(capsys)
    wrong = re.findall(r"a mask of values", out)
    assert (status, len(wrong)) == (2, 3)
    assert re.search(r"\(and \d+ more like it\)", " ".join(out.split()))


def test_a_missing_folder_does_not_hide_other_errors(competition, capsys):
    for path in Path("tiny/test/images").iterdir():
        path.unlink()
    Path("tiny/test/images").rmdir()
    Path("tiny/train.csv").unlink()
    status, out, _ = doctor(capsys)
    said = " ".join(out.split())
    assert (status, "train.csv: no such file" in said, "tiny/test/images: no such folder" in said) == (2, True, True)


def test_a_pixel_order_that_no_file_shows_is_a_look(tiny, edit, capsys):
    assert main(["doctor", "configs/tiny.toml"]) == 0
    assert "no RLE in the files" not in capsys.readouterr().out
    card = load_card("tiny.toml")
    Path("tiny/masks").mkdir()
    for sample in samples_of(read_index(card, Path("tiny"))):
        Image.fromarray(Labels.of(card).read(sample)[..., 0] * 255).save(f"tiny/masks/{sample.image_id}.png")
    Path("tiny/train.csv").unlink()
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_masks = "masks"')
    assert main(["doctor", "configs/tiny.toml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert 'look dialect no RLE in the files shows that order = "column", base = 1 is right: read' in out
