"""The devices and processes of a run, through Lightning Fabric.

The processes are those of `torchrun`, on one machine or several. Without it the first one is the program that was
started, and Fabric starts as many others as the recipe has devices by repeating its command. In either case all of them
come to the same call of `fit`; there each takes its share of every batch.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from crystalformers.errors import ConfigError
from crystalformers.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def is_first_process() -> bool:
    """Whether this is the process that writes the run folder; true before any other is started."""
    return int(os.environ["RANK"] if _by_torchrun() else os.environ.get("LOCAL_RANK", "0")) == 0


def _by_torchrun() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_torchelastic_launched()


def n_processes(recipe: Recipe) -> int:
    """Processes that share every batch: those of `torchrun`, or one for each device of the recipe."""
    return int(os.environ["WORLD_SIZE"]) if _by_torchrun() else recipe.devices


def fabric_for(recipe: Recipe) -> Fabric:
    """The devices that a recipe or `torchrun` asks for; other processes start with `launch`.

    Raises:
        ConfigError: if they are not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    # Fabric reports every process it starts.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    count = n_processes(recipe)
    devices = int(os.environ["LOCAL_WORLD_SIZE"]) if _by_torchrun() else count
    strategy = "ddp" if count > 1 else "auto"
    try:
        return Fabric(accelerator=recipe.accelerator, devices=devices, num_nodes=count // devices, strategy=strategy)
    except (MisconfigurationException, RuntimeError) as error:
        where = f"accelerator = {recipe.accelerator}, devices = {devices}"
        raise ConfigError(
            str(error).rstrip(".!"), where=where, remedy="use accelerator: auto or cpu, or other devices"
        ) from error


def launch(fabric: Fabric, recipe: Recipe) -> None:
    """Start the other processes if the recipe asks for several devices."""
    fabric.launch()
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)  # Fabric divides the cores among its processes.


@torch.no_grad()
def share_buffers(fabric: Fabric, model: nn.Module) -> None:
    """Give every process the buffers of the first: statistics of batch normalisation, which each has of its share."""
    if fabric.world_size > 1:
        for buffer in model.buffers():
            buffer.copy_(fabric.broadcast(buffer.cpu()))


def over_processes(fabric: Fabric, values: Tensor, reduce: Literal["sum", "mean", "max"]) -> Tensor:
    """The sum, mean or maximum over all processes, element by element."""
    if fabric.world_size == 1:
        return values
    reduced = fabric.all_reduce(values.to(fabric.device), reduce_op=reduce)
    assert isinstance(reduced, Tensor)
    return reduced.cpu()
