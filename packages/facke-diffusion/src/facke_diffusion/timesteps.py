"""The draw of the timesteps that a denoiser is trained on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__: list[str] = []

HISTORY = 10
"""Number of losses that are remembered of each timestep."""
UNIFORM = 0.001
"""Probability that all timesteps share alike."""


class Uniform(nn.Module):
    """Draws all timesteps alike.

    Args:
        timesteps: T.
    """

    def __init__(self, timesteps: int) -> None:
        super().__init__()
        self.timesteps = timesteps

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw timesteps (B,) int64, and say the weights (B,) float32 of their losses.

        With the weights the mean loss is expected to be that of uniform timesteps. Both are on the
        device of ``rng``.
        """
        t = torch.randint(self.timesteps, (count,), generator=rng, device=rng.device)
        return t, torch.ones(count, device=rng.device)

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Learn nothing from the losses; others may draw by them."""


class LossSecondMoment(Uniform):
    """Draws timesteps with a probability in proportion to ``sqrt(E[loss^2])``, which lowers the
    variance of the gradient (Nichol and Dhariwal, arXiv:2102.09672, Sec. 3.3).

    The draw is uniform until every timestep has been seen ten times. What it remembers is a part of
    a checkpoint, and the same in all processes.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, timesteps: int) -> None:
        super().__init__(timesteps)
        self.register_buffer("losses", torch.zeros(timesteps, HISTORY))
        self.register_buffer("seen", torch.zeros(timesteps, dtype=torch.int64))

    @property
    def probabilities(self) -> Tensor:
        """The probabilities (T,) of all timesteps, float64 on the CPU, sum 1."""
        if (self.seen < HISTORY).any():
            return torch.full((self.timesteps,), 1 / self.timesteps, dtype=torch.float64)
        moment = self.losses.cpu().double().square().mean(dim=1).sqrt()
        return (1 - UNIFORM) * moment / moment.sum() + UNIFORM / self.timesteps

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw timesteps (B,) by :attr:`probabilities` p; the weights (B,) are ``1 / (T p)``."""
        p = self.probabilities.to(rng.device)
        t = torch.multinomial(p, count, replacement=True, generator=rng)
        return t, (1 / (self.timesteps * p[t])).float()

    def learn(self, t: Tensor, losses: Tensor) -> None:
        """Remember the losses (B,), unweighted, of timesteps ``t`` (B,), in all processes those of
        all."""
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
"""Name in ``objective.timesteps`` of a recipe -> the class that draws."""
