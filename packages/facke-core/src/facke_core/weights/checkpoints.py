"""Checkpoints on disk are a folder each, whole or absent, every file with its digest.

A checkpoint of ``facke train`` is a folder of weights as well (``config.json`` and
``model.safetensors``, the moving average), so ``./RUN/checkpoints/00000500`` can be loaded;
``./RUN`` stands for the newest one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from facke_core import _tensors
from facke_core._files import leftovers, sha256_of
from facke_core.config import from_dict, read_json
from facke_core.errors import ConfigError, FackeWarning, TrainingError, check_ranges
from facke_core.weights.layout import GOLDEN, MODEL
from facke_core.weights.tensors import not_finite

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["complete", "newest_sound"]

FOLDER = "checkpoints"
STATE = "state.json"


class Checkpoint(NamedTuple):
    """A checkpoint that is what was written, in finite numbers."""

    folder: Path
    state: dict[str, Any]
    """What :meth:`Trainer.save` wrote about it."""
    tensors: dict[str, dict[str, Tensor]]
    """Those that a training needs, by the name of their file without its end: of the very bytes
    whose digest was compared."""


def name(step: int) -> str:
    """Return the name of the folder of the checkpoint after ``step`` steps."""
    return f"{step:08d}"


def complete(run: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first: a folder gets its name when all is written."""
    folders = (
        p for p in (run / FOLDER).glob("[0-9]*") if p.name.isdecimal() and (p / STATE).is_file()
    )
    return sorted(folders, key=lambda p: int(p.name))


def newest_sound(run: Path) -> Path | None:
    """Find the newest checkpoint whose files are what was written, in finite numbers; None if there
    is none at all.

    Raises:
        TrainingError: there are checkpoints, none of them sound.

    Warns:
        FackeWarning: a checkpoint was not finished, or is not sound, and an older one is taken.
    """
    checkpoint = newest(run)
    return checkpoint and checkpoint.folder


def newest(run: Path) -> Checkpoint | None:
    """Read the checkpoint that :func:`newest_sound` finds; errors and warnings are its own."""
    folders = complete(run)
    complaints = [f"{part} was not finished" for part in leftovers(run / FOLDER)]
    for folder in reversed(folders):
        try:
            checkpoint = read_checkpoint(folder)
        except TrainingError as error:
            complaints.append(str(error))
            continue
        if complaints:
            warnings.warn(
                f"{'; '.join(complaints)}. Continuing from {folder}.",
                FackeWarning,
                stacklevel=3,
            )
        return checkpoint
    if folders:
        told = "; ".join(text.rstrip(".") for text in complaints)
        raise TrainingError(
            f"{told}. {run} holds no other checkpoint: start again in another folder, or begin "
            "with one of its weights: `init=...`."
        )
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, every file of it once, and compare all with their digests.

    Raises:
        TrainingError: the folder holds none, or a damaged one, or numbers that are not finite.
    """
    state, tensors = read_state(folder), {}
    for name, written in state["files"].items():
        file = folder / name
        own: dict[str, Tensor] = {}
        try:
            if _is_needed(name):
                own, _, sha256 = _tensors.read(file)
                tensors[name.removesuffix(".safetensors")] = own
            else:
                sha256 = sha256_of(file)
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} is damaged: {error}.") from error
        if sha256 != written:
            raise TrainingError(f"{file} is damaged: it is not what was written.")
        if bad := not_finite(own):
            raise TrainingError(
                f"{file} holds numbers that are not finite (NaN or infinite), in {bad}. Resume "
                "from an earlier checkpoint."
            )
    return Checkpoint(folder, state, tensors)


def read_state(folder: Path) -> dict[str, Any]:
    """Read what :meth:`Trainer.save` wrote about a checkpoint; its files are not looked at.

    Raises:
        TrainingError: the folder holds none, or one with a damaged ``state.json``.
    """
    if not (folder / STATE).is_file():
        raise TrainingError(f"{folder} is not a checkpoint: it has no {STATE}.")
    try:
        state = read_json(folder / STATE)
        known = {key: value for key, value in state.items() if key in _KNOWN}
        if known.get("best") == {}:  # no probe yet
            del known["best"]
        from_dict(State, known, where=STATE)
        if not isinstance(state.get("begun with", ""), str):
            raise ConfigError(f"{STATE}: 'begun with' is no text.")
    except (OSError, ConfigError) as error:
        raise TrainingError(f"The checkpoint {folder} cannot be read ({error}).") from error
    return state


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best checkpoint of a run so far."""

    step: int
    score: float
    retrieval: float
    reconstruction: float
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What every ``state.json`` holds; whoever writes a checkpoint may add more.

    Raises:
        ConfigError: a step below 0, or a file that lies elsewhere.
    """

    step: int
    recipe: Mapping[str, Any]
    files: Mapping[str, str]
    """File, relative to the checkpoint -> SHA-256."""
    images: int = 0
    best: Best | None = None
    scaler: Mapping[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self, STATE, step=(0, 2**53), images=(0, 2**53))
        for name in self.files:
            if name.startswith("/") or {"", ".", ".."} & set(name.split("/")):
                raise ConfigError(f"{STATE}.files: {name[:60]!r} is no file of a checkpoint.")


_KNOWN = frozenset(entry.name for entry in fields(State))


def _is_needed(file: str) -> bool:
    """Tell whether a training reads this file of a checkpoint: not the weights, which only follow
    from it."""
    return Path(file).suffix == ".safetensors" and file not in (MODEL, GOLDEN)
