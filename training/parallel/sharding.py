"""FSDP2: weights, gradients and optimizer state split over ranks, where DDP's full copies do not fit.

A shard lives on each rank; `whole` puts a module together again for evaluation, checkpoint and bundle.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from jepack.sigreg import world_size

GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(module: nn.Module, device: torch.device) -> None:
    """Split a module over all ranks, block by block, so that one block at a time is whole in memory."""
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in repeated_blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)  # in place


def repeated_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The blocks or stages that a network lists one after the other, outermost first."""
    listed = isinstance(module, (nn.Sequential, nn.ModuleList))
    for child in module.children():
        if listed and next(child.parameters(), None) is not None:
            yield child
        else:
            yield from repeated_blocks(child)


def whole(module: nn.Module) -> dict[str, Any]:
    """The state of a sharded module in full, on the CPU of rank 0 ({} elsewhere). Every rank calls it."""
    return get_model_state_dict(module, options=GATHERED)


def load_whole(module: nn.Module, state: dict[str, Any]) -> None:
    """The reverse of `whole`; every rank passes the full state."""
    set_model_state_dict(module, state, options=GATHERED)


def whole_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state in full, by parameter name. Every rank calls it."""
    return dict(get_optimizer_state_dict(module, optimizer, options=GATHERED))


def load_whole_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    set_optimizer_state_dict(module, optimizer, state, options=GATHERED)


def unsharded_twin(encoder: nn.Module) -> nn.Module:
    """A copy on the CPU to load gathered weights into; made before sharding."""
    return copy.deepcopy(encoder).cpu().eval()
