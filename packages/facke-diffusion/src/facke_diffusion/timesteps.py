"""Which timesteps a denoiser is trained on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["SAMPLERS", "LossSecondMoment", "Uniform"]

HISTORY = 10
"""Losses that are remembered of each timestep."""
UNIFORM = 0.001
"""Probability that is shared by all timesteps alike."""


class Uniform(nn.Module):
    """All timesteps alike.

    Args:
        timesteps: T.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps (B,) int64 and the weights (B,) float32 of their losses, on the device of
        ``rng``; with these weights the mean loss is expected to be that of uniform timesteps."""
        t = torch.randint(self.timesteps, (count,), generator=rng, device=rng.device)
        return t, torch.ones(count, device=rng.device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Nothing."""


class LossSecondMoment(Uniform):
    """Timesteps with probability proportional to ``sqrt(E[loss^2])``, which lowers the variance of
    the gradient (Nichol and Dhariwal, arXiv:2102.09672, Sec. 3.3).

    Uniform until every timestep has been seen ten times. What it remembers is a part of a
    checkpoint, and the same in all processes.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, timesteps: int) -> None:
        super().__init__(timesteps)
        self.register_buffer("losses", torch.zeros(timesteps, HISTORY))
        self.register_buffer("seen", torch.zeros(timesteps, dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """(T,) float64 on the CPU, sum 1."""
        if (self.seen < HISTORY).any():
            return torch.full((self.timesteps,), 1 / self.timesteps, dtype=torch.float64)
        moment = self.losses.cpu().double().square().mean(dim=1).sqrt()
        return (1 - UNIFORM) * moment / moment.sum() + UNIFORM / self.timesteps

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """As of :class:`Uniform`."""
        p = self.probabilities.to(rng.device)
        t = torch.multinomial(p, count, replacement=True, generator=rng)
        return t, (1 / (self.timesteps * p[t])).float()

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,), unweighted, of timesteps ``t`` (B,); of all processes."""
        for i, loss in zip(*_of_all_processes(t, losses.detach().float()), strict=True):
            self.losses[i] = self.losses[i].roll(-1)
            self.losses[i, -1] = loss
            self.seen[i] += 1


def _of_all_processes(*tensors: Tensor) -> list[Tensor]:
    if not (dist.is_available() and dist.is_initialized()):
        return list(tensors)
    gathered = []
    for tensor in tensors:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        gathered.append(torch.cat(parts))
    return gathered


SAMPLERS = {"uniform": Uniform, "loss-second-moment": LossSecondMoment}
"""What ``objective.timesteps`` of a recipe can be."""
