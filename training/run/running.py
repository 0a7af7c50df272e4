"""Running figures of BatchNorm and its like: a step that is not applied leaves none of them behind."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

NAMES = ("running_", "num_batches_tracked")  # as torch and timm call what a forward pass updates


class RunningFigures:
    """A copy of every running figure of a module, to go back to.

    `keep()` before a step's forward pass, `settle(applied)` after it. The copy is small (two numbers for a
    channel; 0.2 MB for a ResNet-50) and one fused call.
    """

    def __init__(self, module: nn.Module) -> None:
        self.live = list(running_figures(module))
        self.kept = [torch.empty_like(figure) for figure in self.live]

    @torch.no_grad()
    def keep(self) -> None:
        if self.live:
            torch._foreach_copy_(self.kept, self.live)

    @torch.no_grad()
    def settle(self, applied: bool | Tensor) -> None:
        """Back to what `keep` saw unless the step was applied. A tensor of one bool is not waited for."""
        if isinstance(applied, Tensor):
            for kind in {figure.dtype for figure in self.live}:
                live = [figure for figure in self.live if figure.dtype == kind]
                kept = [figure for figure in self.kept if figure.dtype == kind]
                # In one piece: a kernel for each would cost more than they compute.
                after, before = (torch.cat([x.flatten() for x in some]) for some in (live, kept))
                flat = torch.where(applied, after, before)
                chunks = flat.split([figure.numel() for figure in live])
                torch._foreach_copy_(
                    live, [p.view_as(x) for p, x in zip(chunks, live, strict=True)]
                )
        elif not applied and self.live:
            torch._foreach_copy_(self.live, self.kept)


def running_figures(module: nn.Module) -> Iterator[Tensor]:
    """Buffers by name: not every layer that keeps such figures is a BatchNorm (EvoNorm)."""
    for name, figure in module.named_buffers():
        if name.rpartition(".")[2].startswith(NAMES):
            yield figure
