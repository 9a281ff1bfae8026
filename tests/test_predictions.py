"""Files of other tools: which image they are of, how they are laid out, and what their values mean."""

import re

import numpy as np
import pytest
from PIL import Image

from pipeline.competition import Competition
from pipeline.data.labels import Labels
from pipeline.data.predictions import Values, find_scale, open_predictions, to_stored

SIZE = (3, 5)
IDS = ["0001", "0002"]


def card(**options) -> Competition:
    tables = {
        "name": "tiny",
        "title": "tiny",
        "classes": ["disc"],
        "metric": "mean_dice",
        "files": {"train_images": "a", "test_images": "b", "train_csv": "c.csv"},
        "columns": {"id": "id", "rle": "rle", "class": "class" if len(options.get("classes", "a")) > 1 else None},
    }
    return Competition.model_validate({**tables, **options})


def read(path, image_id="0001", fold=None, boundary=None, **options):
    """The values of an image in the predictions below a folder."""
    of = card(**options)
    sources = open_predictions(path, IDS, of, Labels.of(of, boundary))
    return sources[fold].read(image_id, SIZE)


def shares(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random((*shape, *SIZE)).astype(np.float32)


# ----------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_with_and_without_an_axis_of_classes_gives_the_same(tmp_path, dtype):
    values = shares().astype(dtype)
    np.save(tmp_path / "0001.npy", values)
    np.savez_compressed(tmp_path / "0002.npz", values[None])
    assert np.array_equal(read(tmp_path), values[None])
    assert np.array_equal(read(tmp_path, "0002"), values[None])


def test_an_array_is_mapped_into_memory(tmp_path):
    np.save(tmp_path / "0001.npy", shares(1))
    assert isinstance(read(tmp_path), np.memmap)


@pytest.mark.parametrize("suffix", ["npy", "npz", "png"])
def test_a_damaged_prediction_is_to_be_written_again_and_cannot_be_left_out(tmp_path, suffix):
    np.save(tmp_path / "0001.npy", shares())
    content = (tmp_path / "0001.npy").read_bytes()[:40] if suffix == "npy" else b"\x89PNG\r\n\x1a\n"
    (tmp_path / "0001.npy").unlink()
    (tmp_path / f"0001.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"0001\.{suffix}: .*write this prediction again") as error:
        read(tmp_path)
    assert "skip-bad" not in str(error.value)


def test_classes_may_be_the_last_axis(tmp_path):
    values = shares(2)
    np.save(tmp_path / "0001.npy", values)
    np.save(tmp_path / "0002.npy", np.moveaxis(values, 0, -1))
    for image_id in IDS:
        assert np.array_equal(read(tmp_path, image_id, classes=["a", "b"]), values)


@pytest.mark.parametrize("key", ["probabilities", "softmax"])
def test_nnunets_softmax_is_read_without_its_background_and_before_its_png(tmp_path, key):
    background = shares()
    folder = tmp_path / "fold_0" / "validation"
    folder.mkdir(parents=True)
    np.savez(folder / "0001.npz", **{key: np.stack([background, 1 - background])[:, None]})
    (folder / "0001.pkl").write_bytes(b"never opened")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "0001.png")
    assert np.array_equal(read(tmp_path, fold=0), (1 - background)[None])


def test_channels_that_are_no_softmax_are_refused(tmp_path):
    np.save(tmp_path / "0001.npy", shares(2))
    with pytest.raises(ValueError, match="2 channels, one more than classes, that do not sum to 1"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((5, 3), "it is transposed"), ((1, 4, 5), "(4, 5) pixels, its image has (3, 5)"), ((7, 3, 5), "(1, 3, 5)")],
)
def test_another_shape_is_refused_with_both(tmp_path, shape, said):
    np.save(tmp_path / "0001.npy", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"0001\.npy: .*" + re.escape(said)):
        read(tmp_path)


def test_objects_in_an_array_are_not_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    np.save(tmp_path / "0001.npy", np.array([Bomb()]), allow_pickle=True)
    np.savez(tmp_path / "0002.npz", np.array([Bomb()]))
    for image_id in IDS:
        with pytest.raises(ValueError, match="000"):
            read(tmp_path, image_id)


def test_an_archive_of_a_larger_array_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "0001.npz", np.zeros((300, 300), np.float32))
    with pytest.raises(ValueError, match=r"an array of \(300, 300\) for an image of \(3, 5\)"):
        read(tmp_path)


def test_several_arrays_in_an_archive_are_refused(tmp_path):
    np.savez(tmp_path / "0001.npz", a=shares(), b=shares())
    with pytest.raises(ValueError, match="arrays a, b: expected one, or one named probabilities"):
        read(tmp_path)


# ----------------------------------------------------------------------------------- images and CSVs


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_an_image_holds_one_class(tmp_path, suffix):
    values = (255 * shares()).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / f"0001{suffix}")
    assert np.array_equal(read(tmp_path), values[None])


def test_each_class_may_have_its_folder(tmp_path):
    values = (255 * shares(2)).astype(np.uint8)
    for name, each in zip(["a", "b"], values, strict=True):
        (tmp_path / "fold1" / name).mkdir(parents=True)
        Image.fromarray(each).save(tmp_path / "fold1" / name / "0001.png")
    assert np.array_equal(read(tmp_path, fold=1, classes=["a", "b"]), values)
    (tmp_path / "fold1" / "b" / "0001.png").unlink()
    with pytest.raises(ValueError, match="image '0001' has files in 1 folders of classes, none in b"):
        read(tmp_path, fold=1, classes=["a", "b"])


def test_numbers_of_classes_in_an_image_become_masks(tmp_path):
    numbers = np.array([[0, 1, 2, 2, 0]] * 3, np.uint8)
    Image.fromarray(numbers).save(tmp_path / "0001.png")
    assert read(tmp_path, classes=["a", "b"])[:, 0].tolist() == [[0, 1, 0, 0, 0], [0, 0, 1, 1, 0]]
    Image.fromarray(numbers + 1).save(tmp_path / "0001.png")
    with pytest.raises(ValueError, match="values up to 3 in one image, for 2 channels"):
        read(tmp_path, classes=["a", "b"])


def test_values_of_the_card_in_an_image_become_masks(tmp_path):
    Image.fromarray(np.array([[0, 10, 20, 20, 0]] * 3, np.uint8)).save(tmp_path / "0001.png")
    options = {
        "classes": ["a", "b"],
        "masks": {"values": {"a": 20, "b": 10}},
        "files": {"train_images": "a", "test_images": "b", "train_masks": "c"},
    }
    assert read(tmp_path, **options)[:, 0].tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]


def test_a_csv_is_read_in_the_cards_dialect_and_its_rows_of_an_image_are_united(tmp_path):
    path = tmp_path / "masks.csv"
    path.write_text("id,rle\n0001,0 2\n0001,4 1\n0002,-1\n")
    options = {
        "dialect": {"order": "row", "base": 0, "empty": "-1"},
        "instances": True,
        "metric": {"name": "f1", "iou": 0.5},
    }
    assert read(path, **options)[0].tolist() == [[1, 1, 0, 0, 1], [0] * 5, [0] * 5]
    assert not read(path, "0002", **options).any()
    assert read(path, boundary=1.0, **options).shape == (2, *SIZE)


def test_a_csv_with_a_run_outside_of_the_image_is_refused_with_its_line(tmp_path):
    path = tmp_path / "masks.csv"
    path.write_text("id,rle\n0001,1 16\n")
    with pytest.raises(ValueError, match=r"masks.csv: line 2, image '0001'"):
        read(path)


# ----------------------------------------------------------------------------------- ids and folds


def test_ids_with_an_extension_are_found_by_their_name(tmp_path):
    np.save(tmp_path / "a.npy", shares())
    of = card()
    (source,) = open_predictions(tmp_path, ["a.jpg"], of, Labels.of(of)).values()
    assert source.ids == {"a.jpg"}


def test_two_files_of_an_image_are_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "0001.npy", shares())
    with pytest.raises(ValueError, match="are both predictions of image '0001'"):
        read(tmp_path)


def test_files_in_and_outside_of_folders_of_folds_are_refused(tmp_path):
    (tmp_path / "fold0").mkdir()
    np.save(tmp_path / "fold0" / "0001.npy", shares())
    np.save(tmp_path / "0002.npy", shares())
    with pytest.raises(ValueError, match="image '0002' is in no folder fold<k>, others are"):
        read(tmp_path)


def test_a_folder_without_predictions_is_refused(tmp_path):
    (tmp_path / "0001.txt").write_text("0.5")
    with pytest.raises(FileNotFoundError, match=r"expected <image id>\.npy"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder or CSV"):
        read(tmp_path / "missing")


# ----------------------------------------------------------------------------------- values


def scale_of(*values: float, dtype=np.float32, images=False, scale=None) -> float:
    array = np.array(values, dtype=dtype)
    seen = Values(array.dtype)
    seen.add(array, "OOF, image 'a'")
    return find_scale(seen, images=images, scale=scale)


@pytest.mark.parametrize(
    ("values", "options", "scale"),
    [
        ((0.0, 0.4, 1.0), {}, 1),
        ((0, 1), {"dtype": np.uint8}, 1),
        ((0, 1), {"dtype": bool}, 1),
        ((0, 255), {"dtype": np.uint8, "images": True}, 255),
        ((7, 101), {"dtype": np.uint8, "images": True}, 255),
        ((7, 65535), {"dtype": np.uint16, "images": True}, 65535),
        ((0, 255), {"dtype": np.uint8, "scale": 255}, 255),
        ((0.0, 99.5), {"scale": 100}, 100),
    ],
)
def test_the_value_of_probability_1(values, options, scale):
    assert scale_of(*values, **options) == scale


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ((-3.2, 4.1), {}, "they look like logits"),
        ((0.0, 4.1), {}, "they look like logits"),
        ((0.0, 37.5), {}, "they look like 0-100"),
        ((0.0, 57.0), {}, "they look like 0-100"),
        ((3, 57), {"dtype": np.uint8, "images": True}, "they look like 0-100"),
        ((0.0, 254.0), {}, "they look like 0-255: divide them by 255"),
        ((0, 255), {"dtype": np.uint8}, "they look like 0-255: divide them by 255"),
        ((0, 255), {"dtype": np.uint16, "images": True}, "they look like 0-255"),
        ((0.0, 300.0), {"scale": 255}, "expected 0 to 255, as SCALE says"),
        ((0.0, np.nan), {}, "not finite"),
        ((0.0, np.inf), {}, "not finite"),
    ],
)
def test_other_values_are_refused_with_what_they_look_like(values, options, said):
    with pytest.raises(ValueError, match=r"^OOF, image 'a': values") as error:
        scale_of(*values, **options)
    assert said in str(error.value)


def test_every_stored_value_comes_back_from_each_form():
    stored = np.arange(256, dtype=np.uint8)
    for dtype in (np.float16, np.float32, np.float64):
        assert np.array_equal(to_stored((stored / 255).astype(dtype), 1), stored)
    assert np.array_equal(to_stored(stored, 255), stored)
    assert np.array_equal(to_stored(stored.astype(np.uint16) * 257, 65535), stored)
    assert to_stored(np.array([False, True]), 1).tolist() == [0, 255]
    assert to_stored(np.array([0, 1], np.uint8), 1).tolist() == [0, 255]
