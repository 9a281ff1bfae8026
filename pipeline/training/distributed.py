"""Training in one process, or in several that torchrun started, each with its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pipeline import hardware
from pipeline.quoting import first_line

T = TypeVar("T")
CONTROL_TIMEOUT = timedelta(days=7)  # one process may prepare data for hours while the others wait
PROBE_SIDE = 64  # pixels
ENDED = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")  # of gloo and of NCCL


@dataclass(frozen=True)
class Processes:
    """This process and the others of one training.

    Tensors are exchanged by the default group, whose backend is the device's: NCCL on GPUs, which takes no CPU tensors.
    Objects and barriers use the group `control`, on CPUs.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None  # None: one process

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here.

        Raises:
            ConnectionError: if another process has ended.
        """
        if self.control:
            with report_lost_process():
                dist.barrier(self.control)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others.

        Raises:
            ConnectionError: as `wait`.
        """
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def gather(self, value: T) -> list[T]:
        """The value of each process, ordered by rank; every process gets the list.

        Args:
            value: can be pickled.

        Raises:
            ConnectionError: as `wait`.
        """
        if self.control is None:
            return [value]
        values: list[T] = [value] * self.world
        with report_lost_process():
            dist.all_gather_object(values, value, self.control)
        return values

    def batch_size_per_process(self, batch_size: int) -> int:
        """Images per process of a batch.

        Raises:
            ValueError: if the batch cannot be divided.
        """
        if batch_size % self.world:
            raise ValueError(
                f"train.batch_size = {batch_size} cannot be divided among {self.world} processes: set a multiple of "
                f"{self.world}, such as {-(-batch_size // self.world) * self.world}"
            )
        return batch_size // self.world

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model itself, or one that averages the gradients of all processes."""
        if self.world == 1:
            return model
        return DistributedDataParallel(
            model,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=has_unused_weights(model),
            broadcast_buffers=False,  # `broadcast_buffers` does, once per epoch
            gradient_as_bucket_view=True,  # without a second copy of the gradients
        )

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """A block in which a wrapped model's gradients are added up without being averaged."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers, such as batch statistics, to all processes."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def processes() -> Processes:
    """The processes that torchrun started, which are joined at the first call; one without torchrun."""
    return _join() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Processes(hardware.device())


@cache
def _join() -> Processes:
    device = torch.device("cpu")  # Apple's GPUs have no backend
    if hardware.device().type == "cuda":
        device = torch.device("cuda", _own_gpu(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo")
    control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    return Processes(device, dist.get_rank(), dist.get_world_size(), control)


def _own_gpu(local_rank: int, gpus: int) -> int:
    if local_rank >= gpus:
        raise ValueError(f"{gpus} GPUs for more processes on this machine: start torchrun with --nproc-per-node {gpus}")
    return local_rank


def destroy() -> None:
    """Leave the processes, if this one has joined them: at the end of a command."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def report_lost_process() -> Iterator[None]:
    """Turn the error of a lost connection into one line.

    Raises:
        ConnectionError: if another process has ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        if any(sign in str(error) for sign in ENDED):
            raise ConnectionError("another process of this training has ended: its message says why") from error
        raise ConnectionError(f"processes cannot exchange tensors: {first_line(error)}") from error


def has_unused_weights(model: nn.Module) -> bool:
    """Whether weights get no gradient, such as scSE of a missing skip, or stages that a shallow decoder ignores.

    DistributedDataParallel has to search for them after every forward pass, which costs time. They are found with one
    batch on the meta device, which computes nothing.

    Args:
        model: a `Segmenter`.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        probe = deepcopy(model).to("meta").train()
        for module in probe.modules():
            if isinstance(module, _BatchNorm):
                module.eval()  # torch's SyncBatchNorm trains on GPUs only
        images = torch.zeros(2, probe.mean.shape[1], PROBE_SIDE, PROBE_SIDE, device="meta")
        outputs = probe(images)
        sum(each.sum() for each in _tensors(outputs)).backward()
        return any(weight.grad is None for weight in probe.parameters() if weight.requires_grad)


def _tensors(outputs: Tensor | tuple) -> list[Tensor]:
    """All tensors of a model's outputs in training."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for each in outputs if each is not None for tensor in _tensors(each)]
