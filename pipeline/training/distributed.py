"""Training in one process, or in several that torchrun or `accelerate launch` started."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast
from torch import nn

from pipeline import hardware


def make_accelerator(precision: str) -> Accelerator:
    """The accelerator for this machine's device and precision; under torchrun, of one of several processes."""
    device = hardware.device()
    AcceleratorState._reset_state()  # otherwise the precision of an earlier training in this process is kept
    # The training loop does the autocast: accelerate's is lost when a model is prepared again for the next phase.
    # accelerate does the gradient scaling that float16 needs.
    scaled = hardware.precision(precision, device) == torch.float16
    # Some networks have weights that no loss reaches: scSE of a missing skip, stages that a shallow decoder ignores.
    unused_weights = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=device.type == "cpu", mixed_precision="fp16" if scaled else "no", kwargs_handlers=[unused_weights]
    )


def broadcast_buffers(model: nn.Module, accelerator: Accelerator) -> None:
    """Copy the main process's buffers, such as batch statistics, to all processes."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)
