"""Checkpoints on disk are a folder each, whole or absent, every file with its digest.

A checkpoint of ``facke train`` is a folder of weights as well (``config.json`` and
``model.safetensors``, the moving average), so ``./RUN/checkpoints/00000500`` can be loaded;
``./RUN`` stands for the newest one.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

from facke_core._files import leftovers
from facke_core.config import read_json
from facke_core.errors import ConfigError, FackeWarning, TrainingError
from facke_core.weights.layout import GOLDEN, MODEL
from facke_core.weights.tensors import file_not_finite

__all__ = ["complete", "newest_sound"]

FOLDER = "checkpoints"
STATE = "state.json"
_KINDS = {
    "step": int,
    "images": int,
    "recipe": dict,
    "files": dict,
    "best": dict,
    "begun with": str,
}
_NEEDED = ("step", "recipe", "files")


def name(step: int) -> str:
    """Return the name of the folder of the checkpoint after ``step`` steps."""
    return f"{step:08d}"


def complete(run: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first: a folder gets its name when all is written."""
    folders = (
        p for p in (run / FOLDER).glob("[0-9]*") if p.name.isdigit() and (p / STATE).is_file()
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
        raise TrainingError(
            f"{'; '.join(complaints)}. {run} holds no other checkpoint: start again in another "
            "folder, or begin with one of its weights: `init=...`."
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
        state: dict[str, Any] = read_json(folder / STATE)
        for key, kind in _KINDS.items():
            if type(state.get(key)) is not kind and (key in state or key in _NEEDED):
                raise TrainingError(
                    f"{folder / STATE} is damaged: its {key!r} is no {kind.__name__}."
                )
        for file, written in state["files"].items() if verify else ():
            if digest(folder / file) != written:
                raise TrainingError(f"{folder / file} is damaged: it is not what was written.")
            if _is_needed(file):
                _check_numbers(folder / file)
    except (OSError, KeyError, ConfigError) as error:
        raise TrainingError(f"The checkpoint {folder} cannot be read ({error}).") from error
    return state


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_needed(file: str) -> bool:
    """Tell whether a training reads this file of a checkpoint: not the weights, which only follow
    from it."""
    return Path(file).suffix == ".safetensors" and file not in (MODEL, GOLDEN)


def _check_numbers(file: Path) -> None:
    from safetensors import SafetensorError

    try:
        bad = file_not_finite(file)
    except SafetensorError as error:
        raise TrainingError(f"{file} is not a safetensors file ({error}).") from error
    if bad:
        raise TrainingError(f"{file} holds numbers that are not finite (NaN or infinite), in {bad}")
