"""The trainer: one loop for every method. Its body contains no method's name."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from facke_core._files import new_folder, sha256_of
from facke_core.config import to_dict, write_json
from facke_core.data.batches import Batches, stream
from facke_core.errors import ConfigError, FackeError, TrainingError, UsageError
from facke_core.objective import Objective, Phase, StepReport
from facke_core.training.ema import EMA
from facke_core.training.recipe import Recipe
from facke_core.training.resuming import check_same_recipe, saved_recipe
from facke_core.training.state import (
    check_finite,
    optimizer_tensors,
    restore_optimizers,
    tensors_of,
)
from facke_core.types import FaceBatch, GeneratorOutput
from facke_core.weights.checkpoints import STATE, Checkpoint, read_checkpoint

__all__: list[str] = []

LEAST_SCALE = 2.0**-14
"""The scale of losses at which float16 gives up: their gradients do not become finite."""
_NOT_TAKEN = (
    "The step was not taken, and what was saved is from before it. Begin another run with a lower "
    "optimizer.lr, with clip=1, or with precision=float32; its weights can be those of a "
    "checkpoint: `init=...`."
)
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
        self,
        batch: FaceBatch,
        made: GeneratorOutput | None,
        rng: torch.Generator,
        step: int,
        counts: Mapping[str, float],
    ) -> tuple[Tensor, dict[str, Tensor], GeneratorOutput]:
        """Return the weighted sum, each term's unweighted mean, and the generator's output."""
        phase, modules = self.unregistered
        computed = phase.forward(modules, batch, rng, made)
        total, means = torch.zeros((), device=batch.target.device), {}
        for term in phase.terms:
            if weight := term.weight_at(step):
                mean = term.mean(computed, count=counts.get(term.where or ""))
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
        self._images = 0
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
        return self._images

    def __iter__(self) -> Iterator[StepReport]:
        """Train until ``recipe.steps`` steps are done, and report each of them.

        Raises:
            TrainingError: a loss or a gradient is not finite; the phase it came from changed
                nothing.
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
        return self._over_processes({"": float(flag)}, "sum")[""] > 0

    def _train_step(self, parts_of_steps: Iterator[list[FaceBatch]]) -> StepReport:
        started = time.perf_counter()
        parts = [self._placed(part) for part in next(parts_of_steps)]
        made: list[GeneratorOutput | None] = [None] * len(parts)
        counts = self._counts(parts)
        losses: dict[str, float] = {}
        for number, (phase, module, optimizer) in enumerate(
            zip(self.objective.phases, self._phases, self._optimizers, strict=True)
        ):
            if not phase.active_at(self.step):
                continue
            for name, parameters in self._trainable.items():
                for parameter in parameters:
                    parameter.requires_grad_(name == phase.trains)
            sums: dict[str, float] = {}
            for index, part in enumerate(parts):
                rng = self._seeded(number, index)
                last = index == len(parts) - 1
                with nullcontext() if last else self.accelerator.no_sync(module):
                    with self.accelerator.autocast():
                        total, means, made[index] = module(
                            part, made[index], rng, self.step, counts
                        )
                    for name, value in {"": total.detach(), **means}.items():
                        sums[name] = sums.get(name, 0.0) + float(value) / len(parts)
                    self.accelerator.backward(total / len(parts))
            sums = self._over_processes(sums, "mean")
            self._check(sums)
            self._take_step(phase, module, optimizer)
            losses |= {name: value for name, value in sums.items() if name}
        batch = len(parts) * len(parts[0].target) * self.accelerator.num_processes
        self.step += 1
        self._images += batch
        self.ema.update(self.objective.modules["generator"], self.step)
        return StepReport(
            step=self.step,
            images=self.images,
            losses=losses,
            seconds=time.perf_counter() - started,
            batch=batch,
        )

    def _take_step(self, phase: Phase, module: nn.Module, optimizer: Any) -> None:
        """Change what a phase trains, unless its gradient is not finite."""
        limit = self.recipe.clip or math.inf
        norm = float(cast("Tensor", self.accelerator.clip_grad_norm_(module.parameters(), limit)))
        scaler = self.accelerator.scaler  # of float16: leaves out a step, and scales less from then
        if not (math.isfinite(norm) or (scaler and scaler.get_scale() > LEAST_SCALE)):
            raise TrainingError(
                f"The gradient of the {phase.trains} became {norm} at step {self.step}, though its "
                f"losses are finite. {_NOT_TAKEN}"
            )
        rate = self.recipe.optimizer.lr_at(self.step, self.recipe.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _counts(self, parts: Sequence[FaceBatch]) -> dict[str, float]:
        """Count the samples of each mask that terms ask for, per part, on average over all parts
        of all processes."""
        terms = (term for phase in self.objective.phases for term in phase.terms)
        masks = sorted({term.where for term in terms if term.where})
        mine = {mask: float(sum(getattr(part, mask).sum() for part in parts)) for mask in masks}
        shares = len(parts) * self.accelerator.num_processes
        return {
            mask: max(count, 1.0) / shares
            for mask, count in self._over_processes(mine, "sum").items()
        }

    def _over_processes(self, values: Mapping[str, float], how: str) -> dict[str, float]:
        """Join the values that each process has, under the same names."""
        if self.accelerator.num_processes == 1 or not values:
            return dict(values)
        mine = torch.tensor([*values.values()], dtype=torch.float64, device=self.accelerator.device)
        joined = cast("Tensor", self.accelerator.reduce(mine, how))
        return dict(zip(values, joined.tolist(), strict=True))

    def _placed(self, batch: FaceBatch) -> FaceBatch:
        device = self.accelerator.device
        return batch.each(lambda x: x.to(device, non_blocking=True))

    def _seeded(self, phase: int, part: int) -> torch.Generator:
        """Return a generator for this phase, and seed the global ones as well."""
        index = (self.step * self.accelerator.num_processes) + self.accelerator.process_index
        seed = ((self.recipe.seed * 1_000_003 + index) * 16 + phase) * 64 + part
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        return torch.Generator().manual_seed(seed)

    def _check(self, means: Mapping[str, float]) -> None:
        """Refuse losses that are not finite; that without a name is their weighted sum."""
        bad = [name for name, value in means.items() if not math.isfinite(value)]
        if bad:
            names = ", ".join(filter(None, bad)) or "the weighted sum"
            raise TrainingError(
                f"The loss became {means[bad[-1]]} at step {self.step} ({names}). {_NOT_TAKEN}"
            )

    def save(self, folder: Path, also: Callable[[Path], dict[str, Any]] | None = None) -> None:
        """Write a checkpoint to a new ``folder``; it appears there complete or not at all.

        Args:
            folder: its name becomes visible last.
            also: writes more files into the folder it is given, and returns more for the state.

        Raises:
            TrainingError: it cannot be written, for instance because the disk is full, or numbers
                in it are not finite.
        """
        if not self.accelerator.is_main_process:
            return
        tensors = {name: tensors_of(module) for name, module in self._kept.items()}
        tensors["ema"] = tensors_of(self.ema.module)
        tensors["optimizers"] = optimizer_tensors(self.objective.phases, self._optimizers)
        check_finite(tensors, folder)
        try:
            with new_folder(folder) as part:
                for name, state in tensors.items():
                    save_file(state, part / f"{name}.safetensors")
                about: dict[str, Any] = {
                    "step": self.step,
                    "images": self.images,
                    "recipe": to_dict(self.recipe),
                }
                if scaler := self.accelerator.scaler:
                    about["scaler"] = scaler.state_dict()
                about |= also(part) if also else {}
                files = sorted(path for path in part.rglob("*") if path.is_file())
                about["files"] = {
                    path.relative_to(part).as_posix(): sha256_of(path) for path in files
                }
                write_json(part / STATE, about)
        except (OSError, SafetensorError, FackeError) as error:
            raise TrainingError(
                f"The checkpoint {folder} could not be written ({error}). Earlier ones are "
                "untouched. Free some space, then resume."
            ) from error

    def resume(self, checkpoint: Path | Checkpoint) -> dict[str, Any]:
        """Continue from a checkpoint of :meth:`save`; returns its state.

        Args:
            checkpoint: its folder; or what was read of it, whose tensors are taken out.

        Raises:
            TrainingError: the folder holds none, a damaged one, one of another network, or one with
                numbers that are not finite.
            UsageError: it was made with a recipe that gives other numbers.
        """
        if isinstance(checkpoint, Path):
            checkpoint = read_checkpoint(checkpoint)
        folder, state, tensors = checkpoint
        check_same_recipe(saved_recipe(state, folder), self.recipe, folder)
        try:
            for name, module in self._kept.items():
                module.load_state_dict(tensors.pop(name))
            self.ema.module.load_state_dict(tensors.pop("ema"))
            restore_optimizers(self.objective.phases, self._optimizers, tensors.pop("optimizers"))
        except (LookupError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{folder} does not fit this recipe: {error} Resume with the recipe it was "
                "made with."
            ) from error
        if self.accelerator.scaler and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self._images = state.get("images", self.step * self.recipe.batch_size)
        return state
