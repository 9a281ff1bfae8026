"""Sweeps: crashed jobs resume, user errors are reported, a signal ends all jobs, and no fold is trained twice."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import ray
import torch

from pipeline import config, stages
from pipeline.cli import main
from pipeline.files import file_lock
from pipeline.stages import sweeping, training
from pipeline.sweep import executors
from pipeline.sweep.executors import EXECUTORS
from pipeline.sweep.jobs import FAILED, Job
from pipeline.sweep.seeds import config_with_seed
from pipeline.training.checkpoint import load_weights, read_record
from pipeline.training.distributed import Processes
from tests.conftest import build_once
from tests.conftest import lay_out_tiny as lay_out

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TINY = Path("configs/tiny.toml")


def sweep(*sets, seeds=(), **options):
    """Run a sweep of the tiny config; returns its results as text, and the sweep."""
    words = [word for pair in sets for word in ("--set", pair)]
    cfgs = {path: config.load(path, sets) for path in stages.seed_configs([TINY], seeds)}
    done = stages.sweep(cfgs, words, **options)
    return list(map(str, done.results)), done


def epochs_said(fold):
    """How often each epoch is in a fold's log."""
    text = Path(f"runs/tiny/fold{fold}/train.log").read_text()
    return Counter(re.findall(r"phase (\d)  epoch +(\d)", text))


def kill_in_the_middle(fold, killed):
    """Kill the process that trains a fold after its first logged epoch; its id is in the fold's lock."""
    folder, give_up = Path(f"runs/tiny/fold{fold}").absolute(), time.monotonic() + 200
    while not ((folder / "train.log").exists() and "epoch" in (folder / "train.log").read_text()):
        if time.monotonic() > give_up:
            return
        time.sleep(0.005)
    process = int((folder / "lock").read_text().split()[0])
    os.kill(process, signal.SIGKILL)
    killed.append((folder / "best.safetensors").exists())


def while_one_is_killed(fold, run):
    killed = []
    thread = Thread(target=kill_in_the_middle, args=(fold, killed))
    thread.start()
    result = run()
    thread.join()
    assert killed == [False], "killed once, before it was done"
    return result


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    def build() -> None:
        lay_out(Path())
        stages.train(config.load(TINY), 0)

    return build_once(tmp_path_factory, "trained", build)


@pytest.fixture
def trained(trained_once, tmp_path, monkeypatch):
    """The folder of a trained fold 0, in a fresh current folder."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    return Path("runs/tiny/fold0")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Replaces the interpreter: records its arguments, then runs a shell script."""
    monkeypatch.chdir(tmp_path)

    def write(script):
        path = Path("stub").absolute()
        path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > words\necho "$@" >> calls\n{script}\n')
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


EPOCHS = {(phase, epoch): 1 for phase in "12" for epoch in "12"}
LONGER = "train.phases.0.repeats=8"  # long enough to be killed in the middle

# ---------------------------------------------------------------------------------------------- trainings


def test_a_killed_job_resumes_and_a_second_sweep_does_nothing(tiny, caplog):
    (line,), done = while_one_is_killed(0, lambda: sweep(LONGER, fold=0))
    (death,) = [record.getMessage() for record in caplog.records if "died" in record.getMessage()]
    assert death == "runs/tiny/fold0: died with status 137, resumes from its last epoch (retry 1 of 2)"
    assert re.fullmatch(r"runs/tiny/fold0: done, fold 0: OOF 0\.\d{4} at threshold \.5, .*best\.safetensors", line)
    assert epochs_said(0) == EPOCHS, "none is trained again"
    assert (done.jobs, done.done_before) == (1, 0)
    lines, done = sweep(LONGER, fold=0)
    assert (lines, done.jobs, done.done_before) == ([], 1, 1)


def test_a_fold_without_oof_predictions_is_not_finished(trained, stub):
    shutil.rmtree(trained / "oof")
    before = (trained / "best.safetensors").stat().st_mtime_ns
    stub("")
    lines, done = sweep(fold=0)
    assert (lines, done.done_before) == (["runs/tiny/fold0: done"], 0), "its job was run"
    assert Path("words").read_text().split() == ["-m", "pipeline", "train", "configs/tiny.toml", "--fold", "0"]
    stages.train(config.load(TINY), 0)  # as the job does
    assert (trained / "best.safetensors").stat().st_mtime_ns == before, "the weights stay"
    assert sweep(fold=0)[1].done_before == 1


def test_weights_of_other_settings_are_refused_by_their_job(trained, stub):
    stub("")
    assert sweep("train.batch_size=6", fold=0)[1].done_before == 0


# ---------------------------------------------------------------------------------------------- local jobs


def job(fold, *words):
    return Job(Path(f"runs/x/fold{fold}"), ("train", "x.toml", "--fold", str(fold), *words))


def run_jobs(todo, retries=2, at_once=1):
    return list(map(str, EXECUTORS["local"](todo, at_once, retries)))


def test_a_user_error_is_named_and_not_retried_and_the_other_jobs_run(stub):
    stub('case "$*" in *"fold 1"*) echo "pipeline train: no such thing" >&2; exit 2;; esac; echo fine')
    assert run_jobs([job(0), job(1), job(2)]) == [
        "runs/x/fold0: done, fine",
        f"runs/x/fold1: {FAILED} pipeline train: no such thing (see runs/x/fold1/train.log)",
        "runs/x/fold2: done, fine",
    ]
    assert len(Path("calls").read_text().splitlines()) == 3


def test_an_interrupted_job_is_not_retried(stub):
    stub("echo stopped; exit 130")
    assert run_jobs([job(0)]) == [f"runs/x/fold0: {FAILED} stopped (see runs/x/fold0/train.log)"]
    assert len(Path("calls").read_text().splitlines()) == 1


def test_a_crashed_job_is_restarted_as_often_as_retries(stub, caplog):
    stub("echo working; kill -9 $$")
    (end,) = run_jobs([job(0)], retries=3)
    assert caplog.text.count("died with status 137, resumes from its last epoch") == 3
    assert end.startswith(f"runs/x/fold0: {FAILED} died with status 137 after 3 retries, working")
    assert len(Path("calls").read_text().splitlines()) == 4


def test_options_reach_the_training_unchanged(stub):
    stub("")
    words = ("--set", "a={x = 1, y='$HOME #1'}", "--data", "a folder/100% (of it), \\n$(date) `date`", "--set", '"')
    assert run_jobs([job(0, *words)]) == ["runs/x/fold0: done"]
    assert Path("words").read_text().splitlines() == ["-m", "pipeline", *job(0, *words).command]


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_jobs_than_configured_run_in_parallel(stub, at_once):
    stub("mkdir -p running; touch running/$$; ls running | wc -l; sleep 0.3; rm running/$$")
    lines = run_jobs([job(fold) for fold in range(4)], at_once=at_once)
    assert max(int(line.split()[-1]) for line in lines) == at_once


SWEEP = """
import sys
from pathlib import Path
from pipeline.sweep.executors import run_locally
from pipeline.sweep.jobs import Job
sys.executable = str(Path("stub").absolute())
for result in run_locally([Job(Path(f"runs/x/fold{fold}"), ("train",)) for fold in range(3)], 2, 2):
    print(result)
"""


def is_running(process: int) -> bool:
    """Whether a process runs, and is not a zombie."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    path = Path(f"/proc/{process}/stat")
    return not path.exists() or path.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_a_sweep_ends_its_jobs(stub, number):
    python = sys.executable
    stub("echo $$ >> pids; sleep 100")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    default = partial(signal.signal, number, signal.SIG_DFL)  # where these tests run by nohup, SIGHUP is ignored
    sweeping = subprocess.Popen([python, "-c", SWEEP], env=env, stderr=subprocess.DEVNULL, preexec_fn=default)
    give_up = time.monotonic() + 400
    while not Path("pids").exists() or len(Path("pids").read_text().split()) < 2:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    sweeping.send_signal(number)
    assert sweeping.wait(200) != 0
    jobs_pids = [int(pid) for pid in Path("pids").read_text().split()]
    assert len(jobs_pids) == 2, "none is restarted, and the third is not started"
    assert not any(map(is_running, jobs_pids))


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_sweep_under_nohup_ignores_a_closed_terminal(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with executors._stopped_by_signals(executors._Processes({})):
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) == (handler == signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_are_divided_among_jobs(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [executors.threads_per_job(at_once) for at_once in (1, 2, 3, 20)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [executors.threads_per_job(at_once) for at_once in (1, 4)] == [3, 2]


def test_each_job_gets_its_share_of_threads(stub, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    stub("echo $OMP_NUM_THREADS threads")
    assert sorted(run_jobs([job(0), job(1)], at_once=2)) == [f"runs/x/fold{n}: done, 1 threads" for n in (0, 1)]


# ---------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs").glob("*.toml")))
def test_a_copy_differs_only_in_its_seed(name, tmp_path):
    path = Path(shutil.copy(ROOT / "configs" / f"{name}.toml", tmp_path))
    copy = config_with_seed(path, 7)
    assert copy.name == f"{name}_seed7.toml"
    assert config.load(copy) == config.load(path).model_copy(update={"seed": 7, "name": copy.stem})
    assert "Scores:" not in copy.read_text(), "which are another seed's"
    assert config_with_seed(path, config.load(path).seed) == path


@pytest.mark.parametrize("top", ["seed = 3", "  'seed'=3 # ours", 'name = "other"\nseed = 3'])
def test_an_existing_seed_is_replaced(tiny, top):
    TINY.write_text(f"# Header\n{top}\n{TINY.read_text()}")
    copy = config.load(config_with_seed(TINY, 1))
    assert (copy.seed, copy.name) == (1, "tiny_seed1")
    assert config_with_seed(TINY, 3) == TINY


def test_a_config_that_cannot_be_copied_by_lines_is_refused(tiny):
    TINY.write_text('competition = """\nseed = 4\n"""\n' + TINY.read_text().replace('competition = "tiny.toml"', ""))
    with pytest.raises(ValueError, match=r"configs/tiny_seed1.toml cannot be written .*: write it by hand"):
        config_with_seed(TINY, 1)
    assert [path.name for path in Path("configs").iterdir()] == ["tiny.toml"]


def test_a_copy_of_a_config_changed_since_is_refused(tiny, edit):
    copy = config_with_seed(TINY, 1)
    edit(str(TINY), "batch_size = 4", "batch_size = 6")
    with pytest.raises(ValueError, match=r"tiny_seed1.toml and .*tiny.toml differ in train.*remove"):
        config_with_seed(TINY, 1)
    copy.unlink()
    assert tomllib.loads(config_with_seed(TINY, 1).read_text())["train"]["batch_size"] == 6


def test_seeds_have_different_weights_and_the_same_folds(trained):
    paths = stages.seed_configs([TINY], [0, 1])
    trained = [stages.train(config.load(path), 0).weights for path in paths]
    assert [path.parts[1] for path in trained] == ["tiny", "tiny_seed1"]
    first, second = (load_weights(path) for path in trained)
    assert any(not first[key].equal(second[key]) for key in first)
    folds = {json.dumps(read_record(path)["settings"]["folds"]) for path in trained}
    assert len(folds) == 1
    done = stages.sweep({path: config.load(path) for path in paths}, fold=0)
    assert (done.jobs, done.done_before) == (2, 2)


def test_a_sweep_looks_for_the_runs_that_its_jobs_make(tiny):
    # With what is derived of the data: here the size of the encoder's images.
    pairs = ("model.encoder=tu-test_maxvit", "data.size={exact=[160,160]}")
    cfgs = {path: config.load(path, pairs) for path in stages.seed_configs([TINY], [0, 1])}
    for path, context in sweeping._contexts(cfgs):
        expected = stages.make_context(cfgs[path])
        assert expected.cfg != cfgs[path]
        assert (context.cfg, vars(context.paths)) == (expected.cfg, vars(expected.paths))


# ---------------------------------------------------------------------------------------------- mistakes


def test_user_errors_are_one_line(tiny, capsys):
    def say(*words):
        assert main(["sweep", str(TINY), *words]) == 2
        return capsys.readouterr().err

    assert "--seeds one: expected integers from 0" in say("--seeds", "one")
    assert "--fold full: expected a number from 0, or all" in say("--fold", "full")
    assert "unknown executor 'rey'. Did you mean 'ray'?" in say("--executor", "rey")
    assert "fold 9 does not exist" in say("--fold", "9")
    assert "both set the seed" in say("--seeds", "1", "--set", "seed=2")
    assert "are both run 'x': leave out --set name" in say("--seeds", "1 2", "--set", "name=x")


def test_a_failed_job_gives_exit_status_2_and_its_reason(tiny, capsys, stub):
    stub("echo broken; exit 2")
    assert main(["sweep", str(TINY), "--fold", "1"]) == 2
    said = capsys.readouterr()
    assert f"1 of 1 jobs failed, see above: runs/tiny/fold1: {FAILED} broken (see runs/tiny/fold1" in said.err
    assert "jobs        1, 0 of them done before" in said.out


def test_a_run_name_may_have_characters_of_the_shell(tiny, stub):
    stub("")
    assert sweep("name=a b; $c", fold=0)[0] == ["runs/a b; $c/fold0: done"]
    assert Path("runs/a b; $c/fold0/train.log").exists()


# ---------------------------------------------------------------------------------------------- the lock

HOLD = "import sys, time\nfrom pathlib import Path\nfrom pipeline.files import file_lock\n"
HOLD += "with file_lock(Path('lock'), 'it'):\n    print('held', flush=True)\n    time.sleep(60)"


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """Another process that holds the lock `lock`."""
    monkeypatch.chdir(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_lock_names_its_process_and_is_released_when_it_dies(holder):
    said = rf"it is locked by process {holder.pid} on host .+: run this again"
    with pytest.raises(ValueError, match=said), file_lock(Path("lock"), "it", wait=False):
        pass
    holder.kill()  # no handler runs: the kernel releases the lock
    holder.wait()
    with file_lock(Path("lock"), "it", wait=False):
        assert Path("lock").read_text().startswith(f"{os.getpid()} on ")


def test_the_second_process_waits_for_the_lock(holder, capsys):
    main(["encoders", "resnet18"])  # sets up the log
    thread = Thread(target=lambda: (time.sleep(0.3), holder.kill()))
    started = time.monotonic()
    thread.start()
    with file_lock(Path("lock"), "runs/x/fold0"):
        assert time.monotonic() - started > 0.25
    thread.join()
    assert f"runs/x/fold0 is locked by process {holder.pid} on host" in capsys.readouterr().err


def test_a_fold_trained_by_another_process_is_not_trained_again(trained, monkeypatch):
    trained.rename("elsewhere")

    @contextmanager
    def waits_for_another(path, what, wait=True):
        assert (path, wait) == (trained / "lock", True)
        Path("elsewhere").rename(trained)
        yield

    monkeypatch.setattr(training, "file_lock", waits_for_another)
    monkeypatch.setattr(training, "_fit", lambda *_: pytest.fail("trained twice"))
    assert stages.train(config.load(TINY), 0).weights.exists()


def test_a_finished_fold_needs_no_lock(trained, monkeypatch):
    monkeypatch.setattr(training, "file_lock", lambda *_, **__: pytest.fail("a read-only folder cannot be locked"))
    stages.train(config.load(TINY), 0)


def test_only_the_first_of_several_processes_locks(tiny, monkeypatch):
    context, asked = stages.make_context(config.load(TINY)), []

    @contextmanager
    def note(path, what, wait=True):
        asked.append((rank, wait))
        yield

    monkeypatch.setattr(training, "file_lock", note)
    for rank in (0, 1):
        several = Processes(torch.device("cpu"), rank, world=2)  # without a group to wait for
        monkeypatch.setattr(training, "processes", lambda several=several: several)
        with training._lock_fold(context, 0):
            pass
    assert asked == [(0, True)]


# ---------------------------------------------------------------------------------------------- on Ray


def test_on_ray_a_killed_job_resumes_and_each_fold_is_trained_once(tiny, ray_cluster):
    sets = (LONGER, "folds.count=2")
    lines, done = while_one_is_killed(0, lambda: sweep(*sets, executor="ray"))
    assert sorted(line.partition(",")[0] for line in lines) == ["runs/tiny/fold0: done", "runs/tiny/fold1: done"]
    assert epochs_said(0) == epochs_said(1) == EPOCHS
    lines, done = sweep(*sets, executor="ray")
    assert (lines, done.jobs, done.done_before) == ([], 2, 2)


def test_on_ray_a_job_does_the_same_as_the_command(tiny, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    log = Path("runs/x/fold0/train.log")
    said = (2, "pipeline train: --fold last: expected a number from 0, all, or full")
    last = Job(log.parent, ("train", str(TINY), "--fold", "last"))
    assert executors._train(str(tiny), last) == said, "a user error is a result"
    assert log.read_text().splitlines() == [said[1]]
    monkeypatch.setattr(stages, "train", lambda *_: {}["missing"])
    with pytest.raises(executors.DiedError, match="KeyError: 'missing'"):  # any other error is retried
        executors._train(str(tiny), Job(log.parent, ("train", str(TINY), "--fold", "0")))
    assert "Traceback" in log.read_text()


def test_on_ray_a_failed_job_is_named_with_its_log():
    died = ray.exceptions.RayTaskError("train", "…", executors.DiedError("KeyError: 'x'"))
    ends = {
        "done": (0, "OOF"),
        "mistake": (2, "no such file"),
        "died": died,
        "lost": ray.exceptions.WorkerCrashedError(),
    }

    def get(task):
        if isinstance(ends[task], Exception):
            raise ends[task]
        return ends[task]

    fake = SimpleNamespace(get=get, exceptions=ray.exceptions)
    lines = [str(executors._ray_result(fake, job(0), task)) for task in ends]
    assert lines[:2] == ["runs/x/fold0: done, OOF", f"runs/x/fold0: {FAILED} no such file (see runs/x/fold0/train.log)"]
    assert lines[2] == f"runs/x/fold0: {FAILED} died, KeyError: 'x' (see runs/x/fold0/train.log)"
    assert lines[3].startswith(f"runs/x/fold0: {FAILED} died, WorkerCrashedError: The worker died")


@pytest.mark.parametrize(
    ("gpus", "cpus", "at_once", "share"),
    [
        (2, [8, 8], 0, {"num_cpus": 1, "num_gpus": 1}),
        (0, [8, 8], 0, {"num_cpus": 1}),
        (0, [8, 8], 4, {"num_cpus": 4}),
        (0, [8, 8], 1, {"num_cpus": 8}),  # no job is larger than a machine
        (0, [2], 5, {"num_cpus": 1}),
    ],
)
def test_on_ray_a_job_reserves_a_gpu_or_its_share_of_the_cpus(gpus, cpus, at_once, share):
    nodes = [{"Resources": {"CPU": float(each)}} for each in cpus]
    assert executors._resources_per_job({"CPU": float(sum(cpus)), "GPU": gpus}, nodes, at_once) == share


@pytest.mark.parametrize("at_once", [0, 1, 2, 9])
def test_on_ray_no_more_jobs_than_configured_are_submitted(tiny, monkeypatch, at_once):
    running, most = set(), []

    def remote(*_):
        running.add(len(most))
        most.append(len(running))
        return len(most) - 1

    def wait(tasks, num_returns):
        running.discard(tasks[0])
        return tasks[:1], tasks[1:]

    fake = SimpleNamespace(
        nodes=list,
        cluster_resources=lambda: {"GPU": 8.0},
        remote=lambda **_: lambda _: SimpleNamespace(remote=remote),
        wait=wait,
        get=lambda _: (0, "fine"),
        exceptions=ray.exceptions,
    )
    monkeypatch.setattr(executors, "connect", lambda: fake)
    monkeypatch.setattr(executors, "_check_shared_folder", lambda *_: None)
    lines = list(executors.run_on_ray([job(fold) for fold in range(5)], at_once, 2))
    assert len(lines) == 5
    assert max(most) == min(at_once or 5, 5)


def test_a_machine_without_the_folder_is_named(tiny, ray_cluster):
    with pytest.raises(ValueError, match=r"a machine of the cluster, has no .*/x.toml: a sweep needs the"):
        list(EXECUTORS["ray"]([job(0)], 0, 2))
