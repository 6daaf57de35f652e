"""The folder of a run besides its log: checkpoints, and which of them is the best."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facke_core._files import leftovers
from facke_core.config import to_dict, write_json
from facke_core.errors import FackeWarning
from facke_core.plugins.registry import Registry
from facke_core.protocols import Method
from facke_core.publish._curves import write_logs
from facke_core.publish.save import write
from facke_core.training.logs import RunLog
from facke_core.training.probe import ProbeReport
from facke_core.training.trainer import Trainer
from facke_core.types import SwapRequest
from facke_core.weights import checkpoints
from facke_core.weights.layout import LOG, MODEL, WeightsConfig
from facke_core.weights.tensors import not_finite

__all__: list[str] = []

RECIPE = "recipe.json"
BEST = "best.json"
KEEP = 2
"""Newest checkpoints that stay in a run folder, besides the best."""


@dataclass(kw_only=True)
class RunFolder:
    """The folder of one run. All processes have one, the main process alone writes."""

    out: Path
    trainer: Trainer
    method: Method
    weights: WeightsConfig
    registry: Registry
    provenance: dict[str, Any]
    """What the weights say of their training."""
    run: dict[str, Any]
    """What makes a run this one besides its recipe (:mod:`facke_core.training.resuming`)."""
    best: dict[str, Any] = field(default_factory=dict)
    """The probe with the lowest retrieval + reconstruction, and its checkpoint."""

    @property
    def request(self) -> SwapRequest:
        """The facts that previews disclose."""
        step = f"step {self.trainer.step}"
        return SwapRequest(
            method=self.weights.method, weights=self.out.name, revision=step, seed=None
        )

    def open(self) -> AbstractContextManager[RunLog | None]:
        """Make the folder, write its recipe and open its log; None in other processes."""
        if not self.trainer.accelerator.is_main_process:
            return nullcontext()
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / RECIPE, to_dict(self.trainer.recipe))
        return RunLog(self.out, self.trainer.step)

    def judge(self, seen: ProbeReport) -> bool:
        """Tell whether this is the best so far, and remember it then: the lowest retrieval +
        reconstruction, as in the paper's choice of weights."""
        if not seen.score < self.best.get("score", float("inf")):  # nan is not lower either
            return False
        self.best = {
            "step": seen.step,
            "score": seen.score,
            "retrieval": seen.retrieval,
            "reconstruction": seen.reconstruction,
            "checkpoint": f"{checkpoints.FOLDER}/{checkpoints.name(seen.step)}",
        }
        return True

    def keep(self, *, golden: bool) -> None:
        """Write a checkpoint and remove those that are no longer wanted.

        Args:
            golden: with golden tensors, which cost a run of the generator on the CPU. A checkpoint
                can be loaded and resumed without them, and most are gone before anyone looks.
        """
        if not self.trainer.accelerator.is_main_process:
            return
        folder = self.out / checkpoints.FOLDER
        new = folder / checkpoints.name(self.trainer.step)
        if new.exists():
            return
        self.trainer.save(new, lambda part: self._add_weights(part, golden))
        if self.best:
            write_json(self.out / BEST, self.best)
        kept = {self.out / self.best["checkpoint"]} if self.best else set()
        for old in checkpoints.complete(self.out)[:-KEEP]:
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what an earlier call knew, and clear away what it left unfinished."""
        self.best = dict(state.get("best", {}))
        for key in ("base", "begun with"):  # this call may name another file with the same recipe
            self.run[key] = state.get(key, self.run[key])
        if self.trainer.accelerator.is_main_process:
            leftovers(self.out / checkpoints.FOLDER, remove=True)

    def _add_weights(self, folder: Path, golden: bool) -> dict[str, Any]:
        log = self.out / LOG
        logs = write_logs(folder, {LOG: log.read_bytes()}) if log.is_file() else {}
        done = {"steps": self.trainer.step, "images": self.trainer.images}
        begun = {"begun with": self.run["begun with"]} if self.run["begun with"] else {}
        provenance = begun | self.provenance | done | ({"logs": logs} if logs else {})
        write(
            folder,
            {MODEL: self.trainer.ema.module},
            replace(self.weights, training=provenance),
            _dtype_for(self.trainer.ema.module),
            golden=golden,
            registry=self.registry,
        )
        return {"best": self.best, **self.run}


def _dtype_for(generator: nn.Module) -> torch.dtype:
    """Choose float16 for the weights, unless some are too large for it."""
    halves = {
        k: v.to(torch.float16) for k, v in generator.state_dict().items() if v.is_floating_point()
    }
    if not (large := not_finite(halves)):
        return torch.float16
    warnings.warn(
        f"The weights are saved in float32: numbers in them are too large for float16, in {large}. "
        "If these are not running variances, the training diverges: lower optimizer.lr.",
        FackeWarning,
        stacklevel=2,
    )
    return torch.float32
