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
from typing import Any

from facke_core._files import leftovers, sha256_of
from facke_core.config import from_dict, read_json
from facke_core.errors import ConfigError, FackeWarning, TrainingError, check_ranges
from facke_core.weights.layout import GOLDEN, MODEL
from facke_core.weights.tensors import file_not_finite

__all__ = ["complete", "newest_sound"]

FOLDER = "checkpoints"
STATE = "state.json"


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
    folders = complete(run)
    complaints = [f"{part} was not finished" for part in leftovers(run / FOLDER)]
    for checkpoint in reversed(folders):
        try:
            read_state(checkpoint, verify=True)
        except TrainingError as error:
            complaints.append(str(error))
            continue
        if complaints:
            warnings.warn(
                f"{'; '.join(complaints)}. Continuing from {checkpoint}.",
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


def read_state(folder: Path, *, verify: bool = False) -> dict[str, Any]:
    """Read what :meth:`Trainer.save` wrote about a checkpoint.

    Args:
        folder: the checkpoint.
        verify: compare every file with its digest, too, and look for numbers that are not finite.

    Raises:
        TrainingError: the folder holds none, or a damaged one.
    """
    if not (folder / STATE).is_file():
        raise TrainingError(f"{folder} is not a checkpoint: it has no {STATE}.")
    try:
        state = read_json(folder / STATE)
        known = {key: value for key, value in state.items() if key in _KNOWN}
        if known.get("best") == {}:  # no probe yet
            del known["best"]
        files = from_dict(State, known, where=STATE).files
        if not isinstance(state.get("begun with", ""), str):
            raise ConfigError(f"{STATE}: 'begun with' is no text.")
        for file, written in files.items() if verify else ():
            if sha256_of(folder / file) != written:
                raise TrainingError(f"{folder / file} is damaged: it is not what was written.")
            if _is_needed(file):
                _check_numbers(folder / file)
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


def _check_numbers(file: Path) -> None:
    try:
        bad = file_not_finite(file)
    except ValueError as error:
        raise TrainingError(f"{file} is not a safetensors file ({error}).") from error
    if bad:
        raise TrainingError(f"{file} holds numbers that are not finite (NaN or infinite), in {bad}")
