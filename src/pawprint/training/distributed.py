"""Several processes, one training: `torchrun --nproc-per-node 2 -m flows.train --candidate deep_cnn`.

`batch_size` stays the batch of a step; each process takes its share of it. Rank 0 alone reports and writes.
"""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """Of this process among all; 0 where torchrun did not start it."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def group(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes for the time of a training; the device that is this process's own.

    nccl between GPUs, gloo between CPUs. With one process nothing is joined.
    """
    if world() == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    if dist.is_initialized():
        yield device
        return
    _join("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _join(backend: str) -> None:
    """`dist.init_process_group`, with a place of its own in the store for each start.

    torchrun keeps its store when it starts the processes again (torch 2.13 says otherwise and is wrong), so that one
    of them could read the address of a process that is dead: every few restarts failed with "connection refused".
    """
    store, number, size = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(backend, store=dist.PrefixStore(f"start {start}", store), rank=number, world_size=size)  # type: ignore[attr-defined]


def share(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """This process's part of a batch."""
    return np.array_split(indices, world())[rank()]


def wrap(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over all processes."""
    if world() == 1:
        return module
    if device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)


def barrier() -> None:
    """Wait for all."""
    if world() > 1:
        dist.barrier()


def summed(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes; a GPU's processes exchange what lies on `device`."""
    if world() == 1:
        return values
    there = values.to(device)
    dist.all_reduce(there)
    return there.cpu()


def gathered(values: Tensor, device: torch.device) -> list[Tensor]:
    """The values of each process, which have one shape."""
    if world() == 1:
        return [values]
    there = values.to(device)
    found = [torch.empty_like(there) for _ in range(world())]
    dist.all_gather(found, there)
    return [one.cpu() for one in found]
