"""The exponential moving average of a module's parameters."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__: list[str] = []


class EMA:
    """A moving average, ``average = decay * average + (1 - decay) * parameter``, of a module's
    parameters; buffers are copied. It is kept in :attr:`module`, a copy in evaluation mode.

    The decay is reduced in the first steps to ``(1 + n) / (10 + n)``, so that the average does not
    remember the random start (as TensorFlow's ``ExponentialMovingAverage`` does).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards ``module``; ``step`` counts finished steps, from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.module.parameters(), module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for held, now in zip(self.module.buffers(), module.buffers(), strict=True):
            held.copy_(now)
