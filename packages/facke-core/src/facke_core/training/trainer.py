"""The trainer: one loop for every method. Its body contains no method's name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from facke_core._files import new_folder
from facke_core.config import to_dict, write_json
from facke_core.data.batches import Batches, stream
from facke_core.errors import ConfigError, FackeError, TrainingError, UsageError
from facke_core.objective import Objective, Phase, StepReport
from facke_core.training.ema import EMA
from facke_core.training.recipe import Recipe
from facke_core.types import FaceBatch, GeneratorOutput
from facke_core.weights.checkpoints import STATE, digest, read_state

__all__: list[str] = []

_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


class _PhaseModule(nn.Module):
    """A whole phase as one module, so that DDP sees one forward per backward.

    Only the trained module is registered; the others are used, not wrapped.
    """

    def __init__(self, phase: Phase, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trained = modules[phase.trains]
        self.unregistered = (phase, modules)

    def forward(
        self, batch: FaceBatch, made: GeneratorOutput | None, rng: torch.Generator, step: int
    ) -> tuple[Tensor, dict[str, Tensor], GeneratorOutput]:
        """Return the weighted sum, each term's unweighted mean, and the generator's output."""
        phase, modules = self.unregistered
        computed = phase.forward(modules, batch, rng, made)
        total, means = torch.zeros((), device=batch.target.device), {}
        for term in phase.terms:
            if weight := term.weight_at(step):
                mean = term.mean(computed)
                means[f"{phase.trains}.{term.loss.name}"] = mean.detach()
                total = total + weight * mean
        aux = {name: value.detach() for name, value in computed.output.aux.items()}
        return total, means, GeneratorOutput(computed.output.image.detach(), aux)


def make_accelerator(recipe: Recipe, device: torch.device) -> Accelerator:
    """Choose placement, precision and processes as the recipe and the environment ask for.

    Accelerate keeps the precision of a process's first training; it is set anew here, so that a
    notebook can train twice.

    Raises:
        UsageError: float16 anywhere but on CUDA.
    """
    if recipe.precision == "float16" and device.type != "cuda":
        raise UsageError(
            f"precision=float16 needs a CUDA device, and this training is on {device.type}. Use "
            "precision=bfloat16."
        )
    AcceleratorState._reset_state()
    return Accelerator(cpu=device.type == "cpu", mixed_precision=_PRECISION[recipe.precision])


class Trainer:
    """The loop that trains an objective; the caller logs and saves::

        trainer = Trainer(objective, batches, recipe=recipe)
        for report in trainer:
            print(report.step, report.losses)

    The batch and all noise of step k follow from ``recipe.seed`` and k alone: losses and samplers
    get a generator, and Python's, numpy's and torch's global ones are seeded before each phase (for
    dropout and the like). A resumed training is therefore the uninterrupted one, bit for bit,
    without any random state in the checkpoint (docs/adr/0002).

    Args:
        objective: modules and phases.
        batches: makes the batch of any step, for instance
            :class:`~facke_core.data.batches.SwapBatches`.
        recipe: the settings. What its ``data`` and ``loss`` say is in ``batches`` and ``objective``
            already.
        accelerator: placement, precision, processes; by default the CPU in the recipe's precision.
        workers: processes that read batches ahead; 0 reads in this process.

    Raises:
        ConfigError: the batch cannot be divided among processes and parts.
        UsageError: float16 anywhere but on CUDA.
    """

    def __init__(
        self,
        objective: Objective,
        batches: Batches,
        *,
        recipe: Recipe,
        accelerator: Accelerator | None = None,
        workers: int = 0,
    ) -> None:
        self.accelerator = accelerator or make_accelerator(recipe, torch.device("cpu"))
        shares = self.accelerator.num_processes * recipe.accumulate
        if recipe.batch_size % shares:
            raise ConfigError(
                f"recipe.batch_size: {recipe.batch_size} samples cannot be divided among "
                f"{self.accelerator.num_processes} processes x {recipe.accumulate} parts. Use a "
                f"multiple of {shares}."
            )
        self.objective, self.batches, self.recipe = objective, batches, recipe
        self.workers = workers
        self.step = 0
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        for module in objective.modules.values():
            module.to(device=self.accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = EMA(objective.modules["generator"], recipe.ema)
        if recipe.compile:
            objective.modules["generator"].compile()
        self._phases: list[nn.Module] = []
        self._optimizers: list[Any] = []
        for phase in objective.phases:
            optimizer = torch.optim.Adam(
                [p for p in objective.modules[phase.trains].parameters() if p.requires_grad],
                lr=recipe.optimizer.lr,
                betas=recipe.optimizer.betas,
                fused=self.accelerator.device.type in ("cpu", "cuda"),
            )
            module, wrapped = self.accelerator.prepare(
                _PhaseModule(phase, objective.modules), optimizer
            )
            self._phases.append(module)
            self._optimizers.append(wrapped)
        self._trainable = {
            name: [p for p in module.parameters() if p.requires_grad]
            for name, module in objective.modules.items()
        }

    @property
    def _kept(self) -> dict[str, nn.Module]:
        """The modules that a checkpoint holds: those that are trained, and those that have a state
        but no parameters, such as what an objective remembers."""
        trained = {phase.trains for phase in self.objective.phases}
        return {
            name: module
            for name, module in self.objective.modules.items()
            if name in trained or (not list(module.parameters()) and module.state_dict())
        }

    @property
    def images(self) -> int:
        """The number of samples seen so far, by all processes."""
        return self.step * self.recipe.batch_size

    def __iter__(self) -> Iterator[StepReport]:
        """Train until ``recipe.steps`` steps are done, and report each of them.

        Raises:
            TrainingError: a loss is not finite; the phase it came from changed nothing.
        """
        parts_of_steps = stream(
            self.batches,
            range(self.step, self.recipe.steps),
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            parts=self.recipe.accumulate,
            workers=self.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )
        while self.step < self.recipe.steps:
            yield self._train_step(parts_of_steps)

    def any(self, flag: bool) -> bool:
        """Tell whether ``flag`` is true in any process; all have to ask at the same time."""
        if self.accelerator.num_processes == 1:
            return flag
        mine = torch.tensor([float(flag)], device=self.accelerator.device)
        return bool(cast("Tensor", self.accelerator.reduce(mine, "sum")) > 0)

    def _train_step(self, parts_of_steps: Iterator[list[FaceBatch]]) -> StepReport:
        started = time.perf_counter()
        parts = [self._placed(part) for part in next(parts_of_steps)]
        made: list[GeneratorOutput | None] = [None] * len(parts)
        rate = self.recipe.optimizer.lr_at(self.step, self.recipe.steps)
        losses: dict[str, float] = {}
        for number, (phase, module, optimizer) in enumerate(
            zip(self.objective.phases, self._phases, self._optimizers, strict=True)
        ):
            if not phase.active_at(self.step):
                continue
            for name, parameters in self._trainable.items():
                for parameter in parameters:
                    parameter.requires_grad_(name == phase.trains)
            for index, part in enumerate(parts):
                rng = self._seeded(number, index)
                last = index == len(parts) - 1
                with nullcontext() if last else self.accelerator.no_sync(module):
                    with self.accelerator.autocast():
                        total, means, made[index] = module(part, made[index], rng, self.step)
                    values = {name: float(mean) for name, mean in means.items()}
                    self._check(values, float(total.detach()))
                    for name, value in values.items():
                        losses[name] = losses.get(name, 0.0) + value / len(parts)
                    self.accelerator.backward(total / len(parts))
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

    def _placed(self, batch: FaceBatch) -> FaceBatch:
        device = self.accelerator.device
        return FaceBatch(*(x.to(device, non_blocking=True) for x in batch))

    def _seeded(self, phase: int, part: int) -> torch.Generator:
        """Return a generator for this phase, and seed the global ones as well."""
        index = (self.step * self.accelerator.num_processes) + self.accelerator.process_index
        seed = ((self.recipe.seed * 1_000_003 + index) * 16 + phase) * 64 + part
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        return torch.Generator().manual_seed(seed)

    def _check(self, values: Mapping[str, float], total: float) -> None:
        if total - total != 0:  # nan or infinite
            bad = ", ".join(name for name, value in values.items() if value - value != 0)
            raise TrainingError(
                f"The loss became {total} at step {self.step} ({bad or 'the weighted sum'}). "
                "The last checkpoint is from before it. Resume with a lower optimizer.lr, with "
                "clip=1, or with precision=float32."
            )

    def save(self, folder: Path, also: Callable[[Path], dict[str, Any]] | None = None) -> None:
        """Write a checkpoint to a new ``folder``; it appears there complete or not at all.

        Args:
            folder: its name becomes visible last.
            also: writes more files into the folder it is given, and returns more for the state.

        Raises:
            TrainingError: it cannot be written, for instance because the disk is full.
        """
        if not self.accelerator.is_main_process:
            return
        try:
            with new_folder(folder) as part:
                for name, module in self._kept.items():
                    save_file(_flat(module.state_dict()), part / f"{name}.safetensors")
                save_file(_flat(self.ema.module.state_dict()), part / "ema.safetensors")
                save_file(self._optimizer_tensors(), part / "optimizers.safetensors")
                state: dict[str, Any] = {"step": self.step, "recipe": to_dict(self.recipe)}
                if scaler := self.accelerator.scaler:
                    state["scaler"] = scaler.state_dict()
                state |= also(part) if also else {}
                files = sorted(path for path in part.rglob("*") if path.is_file())
                state["files"] = {path.relative_to(part).as_posix(): digest(path) for path in files}
                write_json(part / STATE, state)
        except (OSError, SafetensorError, FackeError) as error:
            raise TrainingError(
                f"The checkpoint {folder} could not be written ({error}). Earlier ones are "
                "untouched. Free some space, then resume."
            ) from error

    def resume(self, folder: Path) -> dict[str, Any]:
        """Continue from a checkpoint of :meth:`save`; returns its state.

        Raises:
            TrainingError: the folder holds none, or one of another network.
        """
        state = read_state(folder)
        try:
            for name, module in self._kept.items():
                module.load_state_dict(load_file(folder / f"{name}.safetensors"))
            self.ema.module.load_state_dict(load_file(folder / "ema.safetensors"))
            self._restore_optimizers(load_file(folder / "optimizers.safetensors"))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TrainingError(
                f"{folder} does not fit this recipe: {error} Resume with the recipe it was "
                "made with."
            ) from error
        if self.accelerator.scaler and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        return state

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
            parameters = optimizer.param_groups[0]["params"]
            for name, value in tensors.items():
                owner, index, key = name.rsplit(".", 2)
                if owner != phase.trains:
                    continue
                like = parameters[int(index)]
                if value.shape == like.shape:  # the fused kernel wants the parameter's layout
                    value = torch.empty_like(like).copy_(value)
                state.setdefault(int(index), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _flat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as safetensors wants them: contiguous, on the CPU, none shared."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
