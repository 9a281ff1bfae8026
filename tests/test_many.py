"""Prediction by partitions: the masks of `make ensemble`, nothing lost and nothing twice, whoever dies on the way."""

import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from threading import Thread

import fsspec
import fsspec.implementations.local
import pandas as pd
import pytest
import ray

from pipeline import config, stages
from pipeline.cli import main
from pipeline.many import engines, partitions
from pipeline.many.inputs import list_inputs
from pipeline.many.partitions import Output
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members

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
    return pd.concat([pd.read_parquet(path) for path in sorted(Path(folder).glob("*.parquet"))], ignore_index=True)


def copies(count):
    """So many images: the tiny test set's, again and again, under ids of their own."""
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
    done = stages.predict_many(weights, PATTERN, "out", rows=2)
    rows = written()
    assert dict(zip(rows["image_id"], rows["rle"], strict=True)) == expected
    assert len(set(expected.values())) > 2, "masks differ, or equality says nothing"
    assert rows["problem"].isna().all()
    assert set(zip(rows["class"], rows["height"], rows["width"], strict=True)) == {("disc", 36, 44)}
    assert (done.images, done.partitions, done.done_before, done.problems) == (5, 3, 0, 0)


def test_a_run_that_was_cut_off_goes_on_with_what_is_missing(bundle, monkeypatch):
    weights, expected = bundle
    source, real = copies(11), partitions.Output.write

    def killed(self, number, rows):
        if number == 3:
            raise KeyboardInterrupt
        real(self, number, rows)

    monkeypatch.setattr(partitions.Output, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.predict_many(weights, source, "out", rows=2)
    monkeypatch.setattr(partitions.Output, "write", real)
    Path("out/part-000001.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}
    done = stages.predict_many(weights, source, "out", rows=2)
    assert (done.done_before, done.predicted) == (2, 7)
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert_all_once(expected, 11)
    assert stages.predict_many(weights, source, "out", rows=2).predicted == 0


def test_a_write_that_fails_leaves_no_partition(bundle, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fsspec.implementations.local.LocalFileOpener, "write", full)
    with pytest.raises(ValueError, match=r"out/_plan.json: cannot be written .*No space left.*make room"):
        stages.predict_many(bundle[0], PATTERN, "out")
    assert not list(Path("out").glob("p*"))


def test_a_bad_image_costs_its_own_row(bundle):
    Path("tiny/test/images/bad.png").write_bytes(b"not an image")
    table = pd.DataFrame({"path": [*sorted(map(str, Path("tiny/test/images").glob("*.png"))), "gone.png"]})
    table.to_parquet("list.parquet")
    done = stages.predict_many(bundle[0], "list.parquet", "out")
    bad = written().set_index("image_id").loc[["bad", "gone"]]
    assert done.problems == 2
    assert bad["rle"].isna().all()
    assert "not an image" in bad["problem"]["bad"]
    assert "no such image" in bad["problem"]["gone"]
    assert len(written()) == 7


def test_files_may_lie_and_go_anywhere(bundle):
    weights, expected = bundle
    memory = fsspec.filesystem("memory")
    for path in Path("tiny/test/images").glob("*.png"):
        memory.pipe(f"/in/{path.name}", path.read_bytes())
    stages.predict_many(weights, "memory://in/*.png", "memory://out", rows=3)
    found = [pd.read_parquet(memory.open(path)) for path in memory.glob("/out/*.parquet")]
    rows = pd.concat(found)
    assert dict(zip(rows["image_id"], rows["rle"], strict=True)) == expected
    memory.rm("/in", recursive=True)
    memory.rm("/out", recursive=True)


def test_another_output_is_asked_for_when_something_else_changed(bundle):
    stages.predict_many(bundle[0], PATTERN, "out", rows=2)
    with pytest.raises(ValueError, match=r"out was begun with rows = 2, now it is 3: give another --output"):
        stages.predict_many(bundle[0], PATTERN, "out", rows=3)
    Path("tiny/test/images/new.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"begun with images = 5, now it is 6"):
        stages.predict_many(bundle[0], PATTERN, "out", rows=2)


def test_mistakes_are_one_line(bundle, capsys):
    def say(*arguments):
        assert main(["predict-many", *arguments]) == 2
        return capsys.readouterr().err

    here = ("bundle", "--output", "out", "--input")
    assert "no file matches" in say(*here, "nowhere/*.png")
    assert "unknown engine 'rey'. Did you mean 'ray'?" in say(*here, PATTERN, "--engine", "rey")
    assert "bundle.json: no such file" in say("tiny", "--output", "out", "--input", PATTERN)
    Path("tiny/test/images/again").mkdir()
    shutil.copy(next(Path("tiny/test/images").glob("*.png")), "tiny/test/images/again")
    with pytest.raises(ValueError, match=r"1 of 6 images have the id of another"):
        list_inputs("tiny/test/images/**/*.png")
    pd.DataFrame({"file": ["a"]}).to_parquet("list.parquet")
    assert "list.parquet: no column 'path', found file" in say(*here, "list.parquet")


# ---------------------------------------------------------------------------------------------- on Ray


@pytest.fixture(scope="module")
def cluster():
    """A cluster of this machine alone."""
    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def actors():
    """Ids of the processes that hold models."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended
            continue
    return found


def test_an_actor_that_is_killed_loses_nothing_and_does_nothing_twice(bundle, cluster):
    weights, expected = bundle
    source, killed = copies(300), []

    def kill_one():
        give_up = time.monotonic() + 60
        while len(list(Path("out").glob("*.parquet"))) < 3 and time.monotonic() < give_up:
            time.sleep(0.01)
        for process in actors()[:1]:
            os.kill(process, signal.SIGKILL)
            killed.append(len(list(Path("out").glob("*.parquet"))))

    thread = Thread(target=kill_one)
    thread.start()
    done = stages.predict_many(weights, source, "out", engine="ray", workers=1, rows=4)
    thread.join()
    assert killed, "one was killed"
    assert killed[0] < 75, "before all was done"
    assert done.partitions == 75
    assert_all_once(expected, 300)


def test_a_machine_without_the_weights_says_so(cluster, tmp_path):
    job = engines.Job([], 1, [0], str(tmp_path), tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"a machine of the cluster cannot work: .*nowhere/bundle.json: no such file"):
        list(engines.run_on_ray(job, 1))


def test_without_a_cluster_it_says_how_to_begin_one(bundle, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("Could not find any running Ray instance."))
    )
    with pytest.raises(ValueError, match=r"no Ray cluster to be found \(Could not find any.*ray start --head"):
        stages.predict_many(bundle[0], PATTERN, "out", engine="ray")


def test_output_of_a_number_of_partitions(tmp_path):
    output = Output(str(tmp_path / "out"))
    output.start([], "model", 10)
    output.write(1, [partitions.Row("a", "x", "1 1", 2, 3)])
    assert output.missing(3) == [0, 2]
    assert not list((tmp_path / "out").glob(".*"))
