"""Near-duplicates: planted ones are found, and unrelated images are not."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from pipeline import duplicates
from pipeline.data.reader import DEFAULT_READER
from pipeline.duplicates import (
    candidates,
    find_duplicates,
    merge_groups,
    merge_groups_of_both,
    read_duplicates,
    write_duplicates,
)
from pipeline.duplicates.search import search_duplicates, searched_others
from pipeline.symmetries import SYMMETRIES

REAL = sorted((Path(__file__).parent / "data").glob("nucleus_????????.png"))
SIDE = 256


def stretch(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scale to a random part of 0 … 255, with camera noise."""
    low, high = np.quantile(values, (0.01, 0.99))
    black, white = rng.uniform(5, 60), rng.uniform(140, 250)
    grey = black + (values - low) / (high - low + 1e-9) * (white - black)
    return np.clip(grey + rng.normal(0, 1, values.shape), 0, 255).astype(np.uint8)


def clouds(rng: np.random.Generator, side: int) -> np.ndarray:
    """A texture with an amplitude spectrum similar to natural images, slightly steeper or flatter."""
    whole = side + side // 4  # the texture is periodic; cropping prevents that mosaics continue it
    frequency = np.hypot(np.fft.fftfreq(whole)[:, None], np.fft.rfftfreq(whole)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((whole, whole))) / frequency ** rng.uniform(1.0, 1.8)
    return stretch(cv2.GaussianBlur(np.fft.irfft2(spectrum, (whole, whole)), (0, 0), 1.0)[:side, :side], rng)


def blobs(rng: np.random.Generator, side: int) -> np.ndarray:
    """Cells: ellipses of several brightnesses on an uneven ground."""
    ground = cv2.resize(rng.normal(0, 20, (4, 4)), (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.uniform(15, 60) * (side / SIDE) ** 2)):
        centre, axes = rng.integers(0, side, 2).tolist(), rng.integers(4, 22, 2).tolist()
        cv2.ellipse(ground, centre, axes, rng.uniform(0, 180), 0, 360, rng.uniform(40, 160), -1)
    texture = cv2.GaussianBlur(rng.normal(0, 12, (side, side)), (0, 0), 2)
    return stretch(cv2.GaussianBlur(ground, (0, 0), 1.2) + 4 * texture, rng)


def layers(rng: np.random.Generator, side: int) -> np.ndarray:
    """A seismic section: reflectors that bend and break. It is self-similar in depth."""
    bend = cv2.resize(rng.normal(0, 12, (5, 5)), (side, side), interpolation=cv2.INTER_CUBIC)
    fault = rng.uniform(5, 25) * (np.arange(side) > rng.uniform(0.2, 0.8) * side)
    depth = np.arange(side)[:, None] + bend + fault
    reflectors = cv2.GaussianBlur(rng.standard_normal((1, 2 * side + 200)), (0, 0), rng.uniform(1.5, 4))[0]
    return stretch(np.interp(depth + 100, np.arange(len(reflectors)), reflectors), rng)


SCENES = [clouds, blobs, layers]


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    _, coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)


def tone(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness and contrast."""
    contrast, gamma = rng.uniform(0.6, 1.3), rng.uniform(0.75, 1.3)
    grey = 255 * (image / 255) ** gamma
    return np.clip((grey - 128) * contrast + 128 + rng.uniform(-25, 25), 0, 255).astype(np.uint8)


class Planted:
    """Images in a folder, and the planted pairs with their kind."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.kinds: dict[frozenset[str], str] = {}
        self.ids: list[str] = []
        self.scenes = 0

    def scene(self, side: int) -> np.ndarray:
        """A new image, unrelated to the others."""
        self.scenes += 1
        return SCENES[self.scenes % len(SCENES)](self.rng, side)

    def add(self, image: np.ndarray) -> str:
        image_id = f"{(len(self.ids) * 7919) % 10_007:05}"  # the order is unrelated to the pairs
        cv2.imwrite(str(self.folder / f"{image_id}.png"), image)
        self.ids.append(image_id)
        return image_id

    def pair(self, kind: str, first: np.ndarray, second: np.ndarray) -> None:
        self.kinds[frozenset((self.add(first), self.add(second)))] = kind

    def table(self) -> pd.DataFrame:
        ids = sorted(self.ids)
        part = np.where(self.rng.random(len(ids)) < 0.7, "train", "test")
        return pd.DataFrame({"image_id": ids, "path": [self.folder / f"{name}.png" for name in ids], "part": part})


def plant(folder: Path, seed: int, distinct: int = 250) -> Planted:
    """`distinct` unrelated scenes; 120 of them have two or more related images."""
    planted = Planted(folder, seed)
    plant_copies(planted)
    plant_crops(planted)
    plant_mosaics(planted)
    while planted.scenes < distinct:
        planted.add(planted.scene(SIDE))
    return planted


def plant_copies(planted: Planted) -> None:
    for name in [*SYMMETRIES][1:] * 3:
        image = planted.scene(SIDE)
        planted.pair("turned", image, SYMMETRIES[name](image))
    for quality in (95, 85, 75, 60, 50, 40) * 3:
        image = planted.scene(SIDE)
        planted.pair("re-encoded", image, jpeg(image, quality))
    for _ in range(12):
        image = planted.scene(SIDE)
        planted.pair("toned", image, tone(image, planted.rng))
    for path in REAL:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        planted.pair("re-encoded", image, jpeg(image, 75))


def plant_crops(planted: Planted) -> None:
    for share in (0.25, 0.25, 0.3, 0.4, 0.5, 0.7, 0.9) * 5:
        first, second = overlapping_crops(planted.scene(2 * SIDE), share, planted.rng)
        planted.pair("overlap", first, jpeg(second, 85) if planted.scenes % 2 else second)
    for side in (96, 128, 160, 192, 224) * 3:
        image = planted.scene(SIDE)
        row, column = planted.rng.integers(0, SIDE - side + 1, 2)
        planted.pair("inside", image, image[row : row + side, column : column + side])


def overlapping_crops(large: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two squares of SIDE pixels that overlap by this share of their area, in any direction."""
    across = rng.uniform(share, 1)  # share of the width; the height follows
    right, down = round(SIDE * (1 - across)), round(SIDE * (1 - share / across))
    if rng.random() < 0.5:
        large = large[::-1]
    return large[:SIDE, :SIDE], large[down : down + SIDE, right : right + SIDE]


def plant_mosaics(planted: Planted) -> None:
    for _ in range(8):
        large = planted.scene(2 * SIDE)
        corners = [(row, column) for row in (0, SIDE) for column in (0, SIDE)]
        tiles = [planted.add(large[row : row + SIDE, column : column + SIDE]) for row, column in corners]
        for one, other in ((0, 1), (2, 3), (0, 2), (1, 3)):
            planted.kinds[frozenset((tiles[one], tiles[other]))] = "mosaic"


def unordered(found: pd.DataFrame) -> set[frozenset[str]]:
    return {frozenset(pair) for pair in zip(found["first"], found["second"], strict=True)}


def count(planted: Planted, found: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Planted and found pairs by kind, and the number of pairs found that were not planted."""
    pairs = unordered(found)
    truth = pd.Series(planted.kinds)
    table = pd.DataFrame({"planted": truth.value_counts(), "found": truth[truth.index.isin(pairs)].value_counts()})
    return table.fillna(0).astype(int), sum(pair not in planted.kinds for pair in pairs)


@pytest.mark.slow
def test_planted_near_duplicates_are_found_with_few_false_positives(tmp_path):
    planted = plant(tmp_path, seed=0)
    table, false = count(planted, found := find_duplicates(planted.table()))
    assert len(planted.ids) > planted.scenes >= 250
    copies_and_crops = table.drop(index="mosaic")
    assert copies_and_crops["found"].sum() >= 0.98 * copies_and_crops["planted"].sum(), table
    assert table["found"].sum() >= 0.98 * table["planted"].sum(), table
    assert (table["found"] >= 0.9 * table["planted"]).all(), table
    assert false <= 0.01 * len(found)


def test_results_do_not_depend_on_threads_or_the_order_of_the_rows(tmp_path, monkeypatch):
    planted = Planted(tmp_path, seed=1)
    plant_mosaics(planted)
    images = planted.table()
    expected = find_duplicates(images)
    monkeypatch.setattr(duplicates, "NUM_THREADS", 1)
    assert find_duplicates(images).equals(expected)
    backwards = find_duplicates(images.iloc[::-1].reset_index(drop=True))
    assert unordered(backwards) == unordered(expected)


def test_shift_of_a_crop_and_symmetry_of_a_copy_are_reported(tmp_path):
    planted = Planted(tmp_path, seed=2)
    large = planted.scene(2 * SIDE)
    first, second = planted.add(large[:SIDE, :SIDE]), planted.add(large[40 : 40 + SIDE, 90 : 90 + SIDE])
    image = planted.scene(SIDE)
    planted.pair("turned", image, np.rot90(image, 3))
    found = find_duplicates(planted.table().set_index("image_id").loc[planted.ids].reset_index())
    assert found[["kind", "view", "down", "right"]].to_numpy().tolist() == [
        ["crop", "identity", 40, 90],
        ["copy", "rotate_90", 0, 0],
    ]
    assert (found["first"][0], found["second"][0]) == (first, second)
    assert (found["score"] > 0.99).all()


def test_matched_patches_equal_those_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(candidates, "MAX_BUCKET", 5)
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 12, (90, 2)).astype(np.int32)  # about seven per key
    owner = np.sort(rng.integers(0, 20, 90))
    crowd = [np.sum(keys[:, 0] == key) > 5 for key in keys[:, 0]]
    refined = [(a, b if crowded else -1) for (a, b), crowded in zip(keys.tolist(), crowd, strict=True)]
    expected = {
        (i, j)
        for i in range(90)
        for j in range(90)
        if owner[i] < owner[j] and refined[i] == refined[j] and refined.count(refined[i]) <= 5
    }
    met = candidates._matching_patches(candidates._bucket_codes(keys, 0), keys, owner)
    assert len(met) == len(expected)
    assert {divmod(pair, 90) for pair in met.tolist()} == expected


def test_images_without_contrast_match_no_image(tmp_path):
    planted = Planted(tmp_path, seed=3)
    for grey in (0, 0, 255, 90):
        planted.add(np.full((SIDE, SIDE), grey, np.uint8))
    assert find_duplicates(planted.table()).empty


def row(first: str, second: str, parts: tuple[str, str] = ("train", "train")) -> dict:
    ends = {"first": first, "first_part": parts[0], "second": second, "second_part": parts[1]}
    return {**ends, "kind": "crop", "view": "identity", "down": -3, "right": 7, "score": 0.875}


def test_table_round_trip_keeps_zeros_of_ids_and_signs_of_shifts(tmp_path):
    pairs = pd.DataFrame([row("001", "1"), row("NA", "007", ("train", "test"))])
    write_duplicates(tmp_path / "pairs.csv", pairs)
    assert read_duplicates(tmp_path / "pairs.csv").to_dict("list") == pairs.to_dict("list")


def test_an_invalid_table_is_refused(tmp_path):
    write_duplicates(tmp_path / "pairs.csv", pd.DataFrame([row("a", "b")]))
    path = tmp_path / "pairs.csv"
    path.write_text(path.read_text().replace("-3", "up"))
    with pytest.raises(ValueError, match=r"pairs\.csv: .*'up'.*remove the file"):
        read_duplicates(path)


def test_pairs_join_groups_also_through_a_test_image():
    index = pd.DataFrame({"image_id": list("abcdef"), "group": ["p", "p", "q", "r", "s", "t"]})
    beside = ("train", "test")
    # b links p and q; d and e are duplicates of one test image, which has the id of a training image; f has none.
    pairs = pd.DataFrame([row("c", "b"), row("e", "f", beside), row("d", "f", beside)])
    assert merge_groups(index, pairs).tolist() == ["p", "p", "p", "r", "r", "t"]


def test_groups_of_training_and_test_images_are_one_only_where_a_pair_connects_them():
    train = pd.DataFrame({"image_id": list("abc"), "group": ["p", "p", "q"]}, index=[7, 8, 9])
    test = pd.DataFrame({"image_id": list("abd"), "group": ["p", "q", "r"]})
    pairs = pd.DataFrame([row("b", "d", ("train", "test")), row("a", "b", ("test", "test"))])
    of_train, of_test = merge_groups_of_both(train, test, pairs)
    assert of_train.tolist() == ["test r", "test r", "train q"]
    assert of_train.index.tolist() == [7, 8, 9]
    assert of_test.tolist() == ["test p", "test p", "test r"]
    assert merge_groups_of_both(train, test[:0], None)[0].tolist() == ["train p", "train p", "train q"]


def test_a_table_of_other_images_is_known_by_its_record(tmp_path):
    planted, path = Planted(tmp_path, seed=1), tmp_path / "x.duplicates.csv"
    plant_mosaics(planted)
    images = planted.table()
    search_duplicates(path, images, DEFAULT_READER)
    assert read_duplicates(path).equals(find_duplicates(images).round({"score": 3}))
    assert not searched_others(path, images.iloc[::-1])
    assert searched_others(path, images.iloc[1:])
    path.with_suffix(".json").unlink()  # as of older tables
    assert not searched_others(path, images.iloc[1:])
