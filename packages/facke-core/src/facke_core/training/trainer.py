"""One loop for every method. Its body contains no method's name."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facke_core.config import to_dict
from facke_core.errors import TrainingError
from facke_core.training.ema import EMA
from facke_core.training.recipe import Recipe
from facke_core.training.step import Objective, Phase, StepReport
from facke_core.types import FaceBatch

STATE = "state.json"
_PRECISION = {"float32": "no", "bfloat16": "bf16"}


class Batches(Protocol):
    """Batch k of a training, a pure function of k."""

    def __getitem__(self, step: int) -> FaceBatch: ...


class _PhaseModule(nn.Module):
    """A whole phase as one module, so that DDP sees one forward per backward.

    Only the trained module is registered; the others are used, not wrapped.
    """

    def __init__(self, phase: Phase, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trained = modules[phase.trains]
        self.unregistered = (phase, modules)

    def forward(
        self, batch: FaceBatch, rng: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term's unweighted mean."""
        phase, modules = self.unregistered
        computed = phase.forward(modules, batch, rng)
        total, means = torch.zeros((), device=batch.target.device), {}
        for term in phase.terms:
            if weight := term.weight_at(step):
                mean = term.mean(computed)
                means[f"{phase.trains}.{term.loss.name}"] = mean.detach()
                total = total + weight * mean
        return total, means


def make_accelerator(recipe: Recipe, device: torch.device) -> Accelerator:
    """Placement, precision and processes as the recipe and the environment ask for.

    Accelerate keeps the precision of a process's first training; it is set anew here, so that a
    notebook can train twice.
    """
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=_PRECISION[recipe.precision])


class Trainer:
    """Trains an objective; ``for report in trainer`` runs it, the caller logs and saves.

    Batch k and all noise of step k follow from ``recipe.seed`` and k alone. A resumed training is
    therefore the uninterrupted one, bit for bit, without any random state in the checkpoint.

    Args:
        objective: modules and phases.
        batches: batch k by index; process r of n sees batch ``k * n + r``.
        recipe: the settings.
        accelerator: placement, precision, processes; by default the CPU in the recipe's precision.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        *,
        recipe: Recipe,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = accelerator or make_accelerator(recipe, torch.device("cpu"))
        self.objective, self.batches, self.recipe = objective, batches, recipe
        self.step = 0
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        for module in objective.modules.values():
            module.to(device=self.accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = EMA(objective.modules["generator"], recipe.ema)
        self._phases: list[nn.Module] = []
        self._optimizers: list[Any] = []
        for phase in objective.phases:
            optimizer = torch.optim.Adam(
                objective.modules[phase.trains].parameters(),
                lr=recipe.optimizer.lr,
                betas=recipe.optimizer.betas,
            )
            module, wrapped = self.accelerator.prepare(
                _PhaseModule(phase, objective.modules), optimizer
            )
            self._phases.append(module)
            self._optimizers.append(wrapped)

    @property
    def images(self) -> int:
        """Images seen so far, by all processes."""
        return self.step * self.recipe.batch_size * self.accelerator.num_processes

    def __iter__(self) -> Iterator[StepReport]:
        """Train until ``recipe.steps`` steps are done.

        Raises:
            TrainingError: a loss is not finite; nothing was changed by that step.
        """
        while self.step < self.recipe.steps:
            yield self._train_step()

    def _train_step(self) -> StepReport:
        started, processes = time.perf_counter(), self.accelerator.num_processes
        index = self.step * processes + self.accelerator.process_index
        batch = FaceBatch(*(x.to(self.accelerator.device) for x in self.batches[index]))
        rate = self.recipe.optimizer.lr_at(self.step, self.recipe.steps)
        losses: dict[str, float] = {}
        for number, (phase, module, optimizer) in enumerate(
            zip(self.objective.phases, self._phases, self._optimizers, strict=True)
        ):
            if not phase.active_at(self.step):
                continue
            for name, other in self.objective.modules.items():
                other.requires_grad_(name == phase.trains)
            rng = torch.Generator().manual_seed(
                (self.recipe.seed * 1_000_003 + index) * 16 + number
            )
            with self.accelerator.autocast():
                total, means = module(batch, rng, self.step)
            values = {name: float(mean) for name, mean in means.items()}
            self._check(values, float(total.detach()))
            losses |= values
            self.accelerator.backward(total)
            if self.recipe.clip:
                self.accelerator.clip_grad_norm_(module.parameters(), self.recipe.clip)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.objective.modules["generator"], self.step)
        return StepReport(
            step=self.step,
            images=self.images,
            losses=losses,
            seconds=time.perf_counter() - started,
        )

    def _check(self, values: Mapping[str, float], total: float) -> None:
        if total - total != 0:  # nan or infinite
            bad = ", ".join(name for name, value in values.items() if value - value != 0)
            raise TrainingError(
                f"The loss became {total} at step {self.step} ({bad or 'the weighted sum'}). "
                "The last checkpoint is from before it. Resume with a lower optimizer.lr, with "
                "clip=1, or with precision=float32."
            )

    def save(self, folder: Path) -> None:
        """Write a checkpoint to a new ``folder``; it appears there complete or not at all."""
        if not self.accelerator.is_main_process:
            return
        part = folder.with_name(folder.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for phase in self.objective.phases:
                module = self.objective.modules[phase.trains]
                save_file(_flat(module.state_dict()), part / f"{phase.trains}.safetensors")
            save_file(_flat(self.ema.module.state_dict()), part / "ema.safetensors")
            save_file(self._optimizer_tensors(), part / "optimizers.safetensors")
            state = {"step": self.step, "recipe": to_dict(self.recipe)}
            (part / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
            os.rename(part, folder)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            raise TrainingError(
                f"The checkpoint {folder} could not be written ({error}). The one before it is "
                "untouched. Free some space, then resume."
            ) from error

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of :meth:`save`.

        Raises:
            TrainingError: the folder holds none, or one of another network.
        """
        if not (folder / STATE).is_file():
            raise TrainingError(f"{folder} is not a checkpoint: it has no {STATE}.")
        try:
            for phase in self.objective.phases:
                state = load_file(folder / f"{phase.trains}.safetensors")
                self.objective.modules[phase.trains].load_state_dict(state)
            self.ema.module.load_state_dict(load_file(folder / "ema.safetensors"))
            self._restore_optimizers(load_file(folder / "optimizers.safetensors"))
        except (OSError, RuntimeError) as error:
            raise TrainingError(
                f"{folder} does not fit this recipe: {error} Resume with the recipe it was "
                "made with."
            ) from error
        self.step = json.loads((folder / STATE).read_text(encoding="utf-8"))["step"]

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for phase, optimizer in zip(self.objective.phases, self._optimizers, strict=True):
            for index, values in optimizer.state_dict()["state"].items():
                for key, value in values.items():
                    tensors[f"{phase.trains}.{index}.{key}"] = value
        return _flat(tensors)

    def _restore_optimizers(self, tensors: Mapping[str, Tensor]) -> None:
        for phase, optimizer in zip(self.objective.phases, self._optimizers, strict=True):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                owner, index, key = name.rsplit(".", 2)
                if owner == phase.trains:
                    state.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _flat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors wants them: contiguous, on the CPU, none shared."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
