"""Muon (momentum, then an orthogonalised step) in float32 and batched over matrices of one shape.

PyTorch's own ``torch.optim.Muon`` iterates in bfloat16, one matrix at a time, which on a CPU without bfloat16
arithmetic costs as much as the small model's backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (
    3.4445,
    -4.7750,
    2.0315,
)  # the quintic iteration of Jordan et al. (2024), as in torch.optim.Muon


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of the singular value decomposition of every matrix of a stack (n, rows, columns)."""
    a, b, c = _COEFFICIENTS
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x = matrices if wide else matrices.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay; steps are scaled to the size of AdamW's.

    Parameters
    ----------
    params
        Matrices (two dimensions each).
    lr, momentum, weight_decay
        Learning rate, momentum and decay, as for ``torch.optim.Muon``.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, members in shapes.items():
                moving = [self._momentum(parameter, group["momentum"]) for parameter in members]
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for parameter, update in zip(members, orthogonalise(torch.stack(moving)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient: Tensor = parameter.grad  # type: ignore[assignment]
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        buffer.lerp_(gradient, 1 - momentum)
        return torch.lerp(gradient, buffer, momentum)
