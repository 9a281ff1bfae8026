"""Experiment trackers: TensorBoard, MLflow and Weights & Biases get what `metrics.jsonl` gets, and a sheet of images.

A tracker never ends or changes a training: the first error of a library switches its tracker off, with one warning.
Each library is imported only when its tracker starts.

Files in a fold's folder:
    trackers.json: for each tracker the id of its run, and what it has been given; a resumed training continues it.
    worst<n>.png: held-out images with the lowest scores of a phase's best weights so far.
    tensorboard/: TensorBoard's event files.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import matplotlib.image
from torch import nn

from pipeline.files import write_text
from pipeline.quoting import first_line
from pipeline.training.selection import Validation

log = logging.getLogger(__name__)

# Writes the PNG of held-out images with the lowest scores of a model.
DrawWorst = Callable[[nn.Module, Validation, Path], None]


class Run(NamedTuple):
    """What a tracker shows a training as."""

    folder: Path  # of the fold, such as runs/<config>/fold0
    project: str  # the competition
    settings: dict[str, Any]  # what the weights depend on, as plain values

    @property
    def config(self) -> str:
        """The config's name."""
        return self.folder.parent.name

    @property
    def name(self) -> str:
        """Config and fold, such as "unet/fold0"."""
        return f"{self.config}/{self.folder.name}"


class Record(NamedTuple):
    """What a tracker has been given, an entry of trackers.json."""

    id: str | None = None  # of its run
    step: int = -1  # of the last epoch
    phase: int = 0  # the last one of whose images it has the sheet


class Tracker(Protocol):
    """A run of a tracker: a new one, or that of a record, continued.

    Attributes:
        id: by which the run is found again; None: by its folder.
        place: where a user finds the run.
    """

    id: str | None
    place: str

    def __init__(self, run: Run, record: Record): ...

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Log the metrics of an epoch."""

    def log_image(self, path: Path, step: int) -> None:
        """Log a PNG."""

    def close(self, *, failed: bool) -> None:
        """End the run."""


class TensorBoard:
    """Event files in the fold's folder."""

    def __init__(self, run: Run, record: Record):
        from torch.utils.tensorboard import SummaryWriter  # takes seconds to import

        self.id, self.place = None, str(run.folder / "tensorboard")
        # Hides later steps of event files that are already there, such as those of a training that was started again.
        self.writer = SummaryWriter(self.place, purge_step=record.step + 1)
        if record.step < 0:
            self.writer.add_text("settings", f"```json\n{json.dumps(run.settings, indent=1)}\n```", 0)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def log_image(self, path: Path, step: int) -> None:
        self.writer.add_image(path.stem, matplotlib.image.imread(path), step, dataformats="HWC")
        self.writer.flush()

    def close(self, *, failed: bool) -> None:
        self.writer.close()


class MLflow:
    """A run at MLFLOW_TRACKING_URI, by default in MLflow's files in the config's folder.

    The client is used without its global state (an active run), which a notebook may have of its own.
    """

    def __init__(self, run: Run, record: Record):
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            # MLflow 3 asks for this in place of a database, whose packages mlflow-skinny does not bring.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self.make_metric = Metric
        self.client = MlflowClient(uri or (run.folder.parent / "mlruns").resolve().as_uri())
        if record.id:
            self.id = record.id
            self.client.update_run(self.id, status="RUNNING")
        else:
            self.id = self.client.create_run(self._experiment(run.project), run_name=run.name).info.run_id
            params = [Param(key, str(value)) for key, value in _flat(run.settings)]
            for first in range(0, len(params), 100):  # the most that one call takes
                self.client.log_batch(self.id, params=params[first : first + 100])
        self.place = f"{uri or run.folder.parent / 'mlruns'}, run {self.id}"

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # another fold has just created it
            if self.client.get_experiment_by_name(name) is None:
                return self.client.create_experiment(name)
        return self.client.get_experiment_by_name(name).experiment_id

    def log(self, metrics: dict[str, float], step: int) -> None:
        now = round(time.time() * 1000)
        self.client.log_batch(self.id, [self.make_metric(name, value, now, step) for name, value in metrics.items()])

    def log_image(self, path: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(path))

    def close(self, *, failed: bool) -> None:
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


class WandB:
    """A run of Weights & Biases, of which WANDB_MODE decides; by default online after `wandb login`, else offline."""

    def __init__(self, run: Run, record: Record):
        import wandb

        offline = "WANDB_MODE" not in os.environ and not wandb.login(prompt=False)  # init would ask for a key
        self.make_image = wandb.Image
        self.run = wandb.init(
            project=run.project,
            group=run.config,
            name=run.name,
            config=run.settings,
            dir=run.folder.parent,
            id=record.id,
            resume="allow",
            reinit="create_new",  # beside another run of this process
            mode="offline" if offline else None,
            settings=wandb.Settings(console="off", silent=True),  # the log is this pipeline's
        )
        self.id = self.run.id
        offline = f"{self.run.settings.sync_dir} (offline: wandb sync uploads it)"
        self.place = offline if self.run.offline else self.run.url

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.run.log(metrics, step=step, commit=True)  # otherwise a killed training loses the epoch

    def log_image(self, path: Path, step: int) -> None:
        self.run.log({path.stem: self.make_image(str(path))}, step=step + 1)  # this step has been committed

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow, "wandb": WandB}
PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny", "wandb": "wandb"}


def check_installed(names: Sequence[str]) -> None:
    """Check that the libraries of these trackers are installed, without importing them.

    Raises:
        ValueError: naming what to install.
    """
    for name in names:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # without an origin: a folder such as ./wandb, where runs are written
            raise ValueError(f'"{name}" needs a package that is not installed: pip install {PACKAGES[name]}')


class Trackers:
    """The trackers of a training; each is switched off by its first error.

    Args:
        names: keys of TRACKERS; none in the processes that do not log.
        draw: for the sheet of the worst images.
        resumed: continue the runs of trackers.json instead of new ones.
    """

    def __init__(
        self, names: Sequence[str] = (), run: Run | None = None, draw: DrawWorst | None = None, *, resumed: bool = False
    ):
        self.run, self.draw = run, draw
        self.active: dict[str, Tracker] = {}
        self.records: dict[str, Record] = self._read() if names and resumed else {}
        for name in dict.fromkeys(names):
            with self._switching_off(name):
                self._start(name)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for name in list(self.active):
            with self._switching_off(name):
                self.active[name].close(failed=kind is not None)

    def log_epoch(self, line: dict[str, Any], step: int) -> None:
        """Log the metrics of an epoch to the trackers that do not have it yet.

        Args:
            line: in the history; its floats are logged. An average of weights is left out, since it has no epoch.
            step: number of the epoch among all that the config plans.
        """
        if "candidate" in line:
            return
        metrics = {key: value for key, value in line.items() if isinstance(value, float)}
        for name in list(self.active):
            if step > self.records[name].step:
                with self._switching_off(name):
                    self._note(name, step=step)  # first: a training killed in between must not log the epoch twice
                    self.active[name].log(metrics, step)

    def draw_worst(self, model: nn.Module, validation: Validation, phase: int) -> None:
        """Draw the held-out images with the lowest scores of a phase's best weights so far."""
        if self.active and self.draw:
            try:
                self.draw(model, validation, self._sheet(phase))
            except Exception as error:  # a picture must not end a training
                self.draw = None
                log.warning("the worst images cannot be drawn (%s); the training continues", first_line(error))

    def log_worst(self, phase: int, step: int) -> None:
        """Log the sheet of a phase that has ended, if there is one."""
        if not self.active or not self._sheet(phase).is_file():
            return
        for name in list(self.active):
            if phase > self.records[name].phase:
                with self._switching_off(name):
                    self._note(name, phase=phase)
                    self.active[name].log_image(self._sheet(phase), step)

    def _start(self, name: str) -> None:
        record = self.records.get(name, Record())
        tracker = TRACKERS[name](self.run, record)
        self.active[name] = tracker
        self.records[name] = record
        self._note(name, id=tracker.id)
        log.info("%s: %s", name, tracker.place)

    @contextmanager
    def _switching_off(self, name: str) -> Iterator[None]:
        """Switch a tracker off if the block raises, whatever its library raises."""
        try:
            yield
        except Exception as error:
            self.active.pop(name, None)
            log.warning(
                "tracker %s is off, the training continues: %s", name, first_line(error) or type(error).__name__
            )

    def _sheet(self, phase: int) -> Path:
        return self.run.folder / f"worst{phase}.png"

    def _note(self, name: str, **changes: Any) -> None:
        self.records[name] = self.records[name]._replace(**changes)
        records = {name: record._asdict() for name, record in self.records.items()}
        write_text(self.run.folder / "trackers.json", json.dumps(records, indent=1) + "\n")

    def _read(self) -> dict[str, Record]:
        """The records in trackers.json; none, and so new runs, if it cannot be read."""
        try:
            entries = json.loads((self.run.folder / "trackers.json").read_text(encoding="utf-8"))
            return {name: Record(**entry) for name, entry in entries.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}


def _flat(values: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The plain values in nested dicts and lists of dicts, by dotted keys.

    >>> list(_flat({"train": {"phases": [{"lr": 0.1}, {"lr": 0.2}]}, "size": [8, 8]}))
    [('train.phases.0.lr', 0.1), ('train.phases.1.lr', 0.2), ('size', [8, 8])]
    """
    if isinstance(values, list) and any(isinstance(each, dict) for each in values):
        values = dict(enumerate(values))
    if not isinstance(values, dict):
        yield key, values
        return
    for name, value in values.items():
        yield from _flat(value, f"{key}.{name}" if key else str(name))
