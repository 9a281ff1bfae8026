"""Batch inference: the masks of `make ensemble`, each partition once, also after crashes."""

import gc
import os
import resource
import shutil
import signal
import time
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path
from threading import Thread

import fsspec
import fsspec.implementations.local
import numpy as np
import pandas as pd
import psutil
import pytest
import ray

from pipeline import config, stages
from pipeline.cli import main
from pipeline.serving.batch import executors, inputs, partitions
from pipeline.serving.batch.inputs import inputs_digest, list_inputs, make_inputs
from pipeline.serving.batch.neighbours import find_neighbours
from pipeline.serving.batch.partitions import MaskRow, Output
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members

pytestmark = pytest.mark.slow

PATTERN = "tiny/test/images/*.png"


@pytest.fixture
def bundle(submitted):
    """The folder of the tiny competition's bundle, and the submission that `make ensemble` wrote, by id."""
    cfgs = [config.load("configs/tiny.toml")]
    done = stages.ensemble(cfgs)
    write_weights(Path("bundle"), load_members(cfgs), done, half=False)
    rows = pd.read_csv(done.csv, dtype=str, keep_default_na=False)
    return Path("bundle"), dict(zip(rows["id"], rows["rle_mask"], strict=True))


def written(folder="out"):
    return pd.read_parquet(folder)


def copies(count):
    """Make `count` images with different ids from the images of the tiny test set."""
    sources = sorted(Path("tiny/test/images").glob("*.png"))
    Path("images").mkdir()
    for number in range(count):
        shutil.copy(sources[number % len(sources)], f"images/{number:04}_{sources[number % len(sources)].name}")
    return "images/*.png"


def assert_all_once(expected, count):
    rows = written()
    assert Counter(rows["image_id"]).most_common(1)[0][1] == 1, "none twice"
    assert len(rows) == count, "none lost"
    assert {row.image_id: row.rle for row in rows.itertuples()} == {
        image_id: expected[image_id.partition("_")[2]] for image_id in rows["image_id"]
    }


def test_partitions_hold_the_masks_of_the_submission(bundle):
    weights, expected = bundle
    done = stages.batch_predict(weights, PATTERN, "out", rows=2)
    rows = written()
    assert dict(zip(rows["image_id"], rows["rle"], strict=True)) == expected
    assert len(set(expected.values())) > 2, "masks differ, or equality says nothing"
    assert rows["problem"].isna().all()
    assert set(zip(rows["class"], rows["height"], rows["width"], strict=True)) == {("disc", 36, 44)}
    assert (done.images, done.partitions, done.done_before, done.problems) == (5, 3, 0, 0)


def test_an_interrupted_run_resumes_with_the_missing_partitions(bundle, monkeypatch):
    weights, expected = bundle
    source, real = copies(11), partitions.Output.write

    def killed(self, number, rows):
        if number == 3:
            raise KeyboardInterrupt
        real(self, number, rows)

    monkeypatch.setattr(partitions.Output, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.batch_predict(weights, source, "out", rows=2)
    monkeypatch.setattr(partitions.Output, "write", real)
    Path("out/part-000001.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    done = stages.batch_predict(weights, source, "out", rows=2)
    assert (done.done_before, done.predicted) == (2, 7)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert_all_once(expected, 11)
    assert stages.batch_predict(weights, source, "out", rows=2).predicted == 0


def test_memory_does_not_grow_over_2000_images(bundle, monkeypatch):
    def write(self, number, rows):
        original(self, number, rows)
        gc.collect()
        used.append((tracemalloc.get_traced_memory()[0], psutil.Process().memory_info().rss))

    original, used, images = Output.write, [], copies(2000)
    monkeypatch.setattr(Output, "write", write)
    tracemalloc.start()
    try:
        stages.batch_predict(Path("bundle"), images, "out", rows=100)
    finally:
        tracemalloc.stop()
    # In each of 16 partitions of 100 images. Something made once, such as a record of the log, is no leak: the median.
    traced, resident = np.diff(used[3:], axis=0).T
    assert np.median(traced) < 4 << 10, f"what Python holds of 100 images: {traced.tolist()}"
    assert resident.sum() < 4 << 20, f"what torch holds of 1,600: {resident.tolist()}"


def test_a_write_that_fails_leaves_no_partition(bundle, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileOpener, "write", full)
    with pytest.raises(ValueError, match=r"out/_plan.json: cannot be written .*No space left.*free some space"):
        stages.batch_predict(bundle[0], PATTERN, "out")
    assert not list(Path("out").glob("p*"))


def test_a_bad_image_affects_its_own_row_only(bundle):
    Path("tiny/test/images/bad.png").write_bytes(b"not an image")
    table = pd.DataFrame({"path": [*sorted(map(str, Path("tiny/test/images").glob("*.png"))), "gone.png"]})
    table.to_parquet("list.parquet")
    done = stages.batch_predict(bundle[0], "list.parquet", "out")
    bad = written().set_index("image_id").loc[["bad", "gone"]]
    assert done.problems == 2
    assert bad["rle"].isna().all()
    assert "not an image" in bad["problem"]["bad"]
    assert "no such image" in bad["problem"]["gone"]
    assert len(written()) == 7


def test_input_and_output_may_be_urls(bundle):
    weights, expected = bundle
    memory = fsspec.filesystem("memory")
    for path in Path("tiny/test/images").glob("*.png"):
        memory.pipe(f"/in/{path.name}", path.read_bytes())
    stages.batch_predict(weights, "memory://in/*.png", "memory://out", rows=3)
    found = [pd.read_parquet(memory.open(path)) for path in memory.glob("/out/*.parquet")]
    rows = pd.concat(found)
    assert dict(zip(rows["image_id"], rows["rle"], strict=True)) == expected
    memory.rm("/in", recursive=True)
    memory.rm("/out", recursive=True)


def test_an_output_of_another_prediction_is_refused(bundle):
    stages.batch_predict(bundle[0], PATTERN, "out", rows=2)
    with pytest.raises(ValueError, match=r"out was started with rows = 2, now it is 3: give another --output"):
        stages.batch_predict(bundle[0], PATTERN, "out", rows=3)
    Path("tiny/test/images/new.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"started with images = 5, now it is 6"):
        stages.batch_predict(bundle[0], PATTERN, "out", rows=2)


def test_user_errors_are_one_line(bundle, capsys):
    def say(*arguments):
        assert main(["batch-predict", *arguments]) == 2
        return capsys.readouterr().err

    here = ("bundle", "--output", "out", "--input")
    assert "no file matches: quote the pattern" in say(*here, "nowhere/*.png")
    assert "it is a folder: give a pattern, such as tiny/test/images/*.png" in say(*here, "tiny/test/images/")
    assert "'--rows': Input should be greater than or equal to 1" in say(*here, PATTERN, "--rows", "0")
    assert "'--workers': Input should be greater than or equal to 0" in say(*here, PATTERN, "--workers", "-1")
    assert "unknown executor 'rey'. Did you mean 'ray'?" in say(*here, PATTERN, "--executor", "rey")
    assert "bundle.json: no such file" in say("tiny", "--output", "out", "--input", PATTERN)
    Path("tiny/test/images/again").mkdir()
    shutil.copy(next(Path("tiny/test/images").glob("*.png")), "tiny/test/images/again")
    with pytest.raises(ValueError, match=r"1 of 6 images share an id"):
        list_inputs("tiny/test/images/**/*.png")
    pd.DataFrame({"file": ["a"]}).to_parquet("list.parquet")
    assert "list.parquet: no column 'path', found file" in say(*here, "list.parquet")


# ---------------------------------------------------------------------------------------------- lists of images


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Write a table, and list its images."""
    monkeypatch.chdir(tmp_path)

    def write(**columns):
        pd.DataFrame(columns).to_parquet("list.parquet")
        return list_inputs("list.parquet")

    return write


def test_ids_of_a_table_are_not_changed(listed):
    assert list(listed(path=["a.png", "b.png"], image_id=["007", "7"])["image_id"]) == ["007", "7"]
    assert list(listed(path=["a.png", "b.png"], image_id=[7, 8])["image_id"]) == ["7", "8"]
    assert list(listed(path=pd.Categorical(["x/0012.v2.png", "x/plain"]))["image_id"]) == ["0012.v2", "plain"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": ["a.png", None]}, r"list.parquet: row 1 \(from 0\) has no path: fill it in"),
        ({"path": ["a.png", ""]}, r"row 1 \(from 0\) has no path"),
        ({"path": ["a.png", float("nan")]}, r"row 1 \(from 0\) has no path"),
        ({"path": ["a.png", "b.png"], "image_id": ["a", None]}, r"row 1 \(from 0\) has no image_id"),
        ({"path": ["a.png"], "image_id": [1.0]}, r"column 'image_id' is of type double, expected text"),
        ({"path": [1, 2]}, r"column 'path' is of type int64, expected text"),
        ({"path": ["a.png", "a.jpg"]}, r"1 of 2 images share an id, the first is 'a'"),
        ({"path": ["a.png", "absent://a/b.png"]}, r"absent://a/b.png: a package is not installed: get absent"),
    ],
)
def test_an_invalid_table_is_refused_with_its_row(listed, columns, message):
    fsspec.register_implementation("absent", "no_such_package.Files", clobber=True, errtxt="get absent")
    with pytest.raises(ValueError, match=message):
        listed(**columns)


def test_an_empty_or_missing_table_is_refused(listed):
    with pytest.raises(FileNotFoundError, match=r"list.parquet: it lists no image"):
        listed(path=pd.Series([], dtype=str))
    with pytest.raises(FileNotFoundError, match=r"gone.parquet: no such file"):
        list_inputs("gone.parquet")


def test_a_pattern_matches_files_only(tmp_path):
    for name in ("b.png", "a.png", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "dead.png").symlink_to("nowhere")
    found = list_inputs(f"{tmp_path}/*.png")
    expected = [(name, f"file://{tmp_path}/{name}.png") for name in ("a", "b", "link")]
    assert list(found.itertuples(index=False, name=None)) == expected


def test_a_pattern_may_match_inside_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as file:
        file.writestr("in/a.png", b"pixels")
        file.writestr("in/._a.png", b"what macOS knows about it")
    found = list_inputs(f"zip://in/*.png::{tmp_path}/all.zip")
    with inputs.local_copies(found) as ((image_id, sample),):
        assert (image_id, sample.path.read_bytes()) == ("a", b"pixels")


def test_digest_identifies_ids_and_paths_in_order(listed):
    found = listed(path=[f"{number}.png" for number in range(8)])
    again = make_inputs(list(found["path"]), list(found["image_id"]))
    assert inputs_digest(found) == inputs_digest(again)
    others = (found[:7], found[::-1], found.assign(path="x"), found.assign(image_id="x"))
    assert inputs_digest(found) not in map(inputs_digest, others)


# ---------------------------------------------------------------------------------------------- writing


def test_a_full_disk_keeps_complete_partitions(tmp_path):
    output, rows = Output(str(tmp_path / "out")), [MaskRow(f"{number:032}", "x", "1 1", 2, 3) for number in range(2000)]
    output.start(make_inputs([], []), "model", 10)
    output.write(0, rows[:1])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # the system refuses any further byte
    try:
        with pytest.raises(
            ValueError, match=r"part-000001.parquet: cannot be written .*free some space, and run the same comm"
        ):
            output.write(1, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_plan.json", "part-000000.parquet"]
    assert output.missing(2) == [1]


def test_two_runs_may_write_the_same_partition(tmp_path, monkeypatch):
    first, second = Output(str(tmp_path)), Output(str(tmp_path))
    rows, real = [MaskRow("a", "x", "1 1", 2, 3)], fsspec.implementations.local.LocalFileSystem.mv

    def overtaken(*args):
        monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "mv", real)
        second.write(0, rows)
        real(*args)

    monkeypatch.setattr(fsspec.implementations.local.LocalFileSystem, "mv", overtaken)
    first.write(0, rows)
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000.parquet"]
    assert list(pd.read_parquet(tmp_path)["image_id"]) == ["a"]


def test_an_output_of_unknown_origin_is_not_changed(tmp_path):
    output = Output(str(tmp_path))
    (tmp_path / "_plan.json").write_text("{half")
    with pytest.raises(ValueError, match=r"_plan.json: expected the plan of a batch prediction"):
        output.start(make_inputs([], []), "model", 10)
    (tmp_path / "_plan.json").write_text("{}")
    with pytest.raises(ValueError, match=r"was started with images = None, now it is 0"):
        output.start(make_inputs([], []), "model", 10)
    (tmp_path / "_plan.json").unlink()
    output.write(0, [MaskRow("a", "x", "1 1", 2, 3)])
    with pytest.raises(ValueError, match=r"has partitions but no _plan.json"):
        output.start(make_inputs([], []), "model", 10)


# ---------------------------------------------------------------------------------------------- on Ray


def actors():
    """Ids of the processes that have loaded models."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended
            continue
    return found


def test_a_killed_actor_loses_and_repeats_no_partition(bundle, ray_cluster):
    weights, expected = bundle
    source, killed = copies(300), []

    def kill_one():
        give_up = time.monotonic() + 300
        while len(list(Path("out").glob("*.parquet"))) < 3 and time.monotonic() < give_up:
            time.sleep(0.01)
        for process in actors()[:1]:
            os.kill(process, signal.SIGKILL)
            killed.append(len(list(Path("out").glob("*.parquet"))))

    thread = Thread(target=kill_one)
    thread.start()
    done = stages.batch_predict(weights, source, "out", executor="ray", workers=1, rows=4)
    thread.join()
    assert killed, "one was killed"
    assert killed[0] < 75, "before all was done"
    assert done.partitions == 75
    assert_all_once(expected, 300)


def test_a_machine_without_the_weights_is_an_error(ray_cluster, tmp_path):
    nothing = make_inputs([], [])
    job = executors.BatchJob(nothing, 1, [0], str(tmp_path), tmp_path / "nowhere", find_neighbours(nothing, []))
    with pytest.raises(
        ValueError, match=r"a machine of the cluster cannot predict: .*nowhere/bundle.json: no such file"
    ):
        list(executors.run_on_ray(job, 1))


def test_without_a_cluster_the_error_tells_how_to_start_one(bundle, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("Could not find any running Ray instance."))
    )
    with pytest.raises(ValueError, match=r"no Ray cluster found \(Could not find any.*ray start --head"):
        stages.batch_predict(bundle[0], PATTERN, "out", executor="ray")


def test_output_of_a_number_of_partitions(tmp_path):
    output = Output(str(tmp_path / "out"))
    output.start(make_inputs([], []), "model", 10)
    output.write(1, [MaskRow("a", "x", "1 1", 2, 3)])
    assert output.missing(3) == [0, 2]
    assert not list((tmp_path / "out").glob(".*"))
