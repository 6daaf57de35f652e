"""The tensors of a checkpoint: from modules and optimisers, and back into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facke_core.errors import TrainingError
from facke_core.objective import Phase
from facke_core.weights.tensors import not_finite

__all__: list[str] = []


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module as safetensors wants it: contiguous, on the CPU, none shared."""
    return _flat(module.state_dict())


def optimizer_tensors(phases: Sequence[Phase], optimizers: Sequence[Any]) -> dict[str, Tensor]:
    """Return the states of all optimisers, likewise."""
    tensors = {}
    for phase, optimizer in zip(phases, optimizers, strict=True):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                tensors[f"{phase.trains}.{index}.{key}"] = value
    return _flat(tensors)


def restore_optimizers(
    phases: Sequence[Phase], optimizers: Sequence[Any], tensors: Mapping[str, Tensor]
) -> None:
    """Give each optimiser the state that :func:`optimizer_tensors` took from it."""
    for phase, optimizer in zip(phases, optimizers, strict=True):
        state: dict[int, dict[str, Tensor]] = {}
        parameters = optimizer.param_groups[0]["params"]
        for name, value in tensors.items():
            owner, index, key = name.rsplit(".", 2)
            if owner != phase.trains:
                continue
            like = parameters[int(index)]
            # a copy, in the layout that the fused kernel wants; a view would keep the whole file
            same = value.shape == like.shape
            value = torch.empty_like(like).copy_(value) if same else value.clone()
            state.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def check_finite(states: Mapping[str, Mapping[str, Tensor]], folder: Path) -> None:
    """Refuse to save a checkpoint with numbers that are not finite.

    Raises:
        TrainingError: names the tensors, and how many numbers.
    """
    for name, state in states.items():
        if bad := not_finite(state):
            raise TrainingError(
                f"The checkpoint {folder} is not written: numbers of {name} are not finite (NaN or "
                f"infinite), in {bad}. Earlier ones are untouched. Begin another run with a "
                "lower optimizer.lr or clip=1; its weights can be those of one of them: "
                "`init=...`."
            )


def _flat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
