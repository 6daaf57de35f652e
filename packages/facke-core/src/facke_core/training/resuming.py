"""A resumed training is the same run: same recipe, same data, same beginning.

Only what decides none of its numbers may change (:data:`FREE`), and how long it goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from facke_core.config import from_dict, override, to_dict
from facke_core.errors import ConfigError, FackeWarning, TrainingError, UsageError
from facke_core.plugins.registry import Registry
from facke_core.training.recipe import Recipe, read_recipe
from facke_core.weights.checkpoints import Checkpoint
from facke_core.weights.tensors import some

__all__: list[str] = []

FREE = ("steps", "log_every", "save_every", "probe", "sources")
"""Keys of a recipe that a resumed run may have others of."""


def saved_recipe(state: Mapping[str, Any], where: Path) -> Recipe:
    """Return the recipe in the state of a checkpoint.

    Raises:
        TrainingError: there is none, or one of another version of facke.
    """
    try:
        return from_dict(Recipe, state.get("recipe"), where="recipe")
    except ConfigError as error:
        raise TrainingError(
            f"The recipe in the checkpoint {where} cannot be read ({error}). Resume with the "
            "version of facke that wrote it."
        ) from error


def recipe_of(
    name: str, overrides: Sequence[str], registry: Registry, checkpoint: Checkpoint | None
) -> tuple[Recipe, Recipe]:
    """Read the recipe of a run, and the one that it names, without overrides.

    A resumed run has the recipe of its checkpoint, with ``overrides``; if it is given another one
    than it began with, that one has to say the same. The steps of a finished run are those of the
    recipe again.

    Args:
        name: the recipe's name, or the path of its file.
        overrides: ``key=value`` changes.
        registry: where recipes are looked up.
        checkpoint: where to resume from; None begins a run.

    Raises:
        UsageError: other numbers would follow from it than from the checkpoint's.
        ConfigError, UnknownNameError: it cannot be read.
        TrainingError: the checkpoint's recipe cannot be read.
    """
    base = read_recipe(name, (), registry)
    if checkpoint is None:
        return read_recipe(name, overrides, registry), base
    state, folder = checkpoint.state, checkpoint.folder
    saved = saved_recipe(state, folder)
    begun = state.get("base")
    if begun is None or _differences(saved_recipe({"recipe": begun}, folder), base):
        recipe = read_recipe(name, overrides, registry)
    else:
        data = to_dict(saved)
        if state["step"] >= saved.steps:  # finished: on to what the recipe says
            data["steps"] = max(saved.steps, base.steps)
        data = override(data, *overrides, schema=Recipe)
        recipe = from_dict(Recipe, data, where="recipe")
    check_same_recipe(saved, recipe, folder)
    return recipe, base


def check_same_recipe(saved: Recipe, now: Recipe, where: Path) -> None:
    """Refuse to resume with a recipe that gives other numbers than the saved one.

    Raises:
        UsageError: names what differs, and both values.
    """
    if differences := _differences(saved, now):
        raise UsageError(
            f"{where} was made with another recipe than this call has: {some(differences)}. A "
            f"resumed training is the same run; only {', '.join(FREE)} may change. Resume with the "
            "same recipe and without such `overrides`, or begin another run with these weights: "
            "`out=..., init=...`."
        )


def check_same_run(state: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to resume with other data or another beginning, and warn of another machine.

    Args:
        state: of the checkpoint.
        now: what would be saved: ``data``, ``begun with`` (empty: this call does not say),
            ``processes``, ``device``.
        where: the checkpoint, for messages.

    Raises:
        UsageError: the dataset is another one, or ``init`` is.

    Warns:
        FackeWarning: the number of processes or the kind of device is another one.
    """
    data, begun, here = state.get("data"), state.get("begun with"), now["data"]
    if isinstance(data, Mapping) and data.get("digest") != here["digest"]:
        raise UsageError(
            f"{where} was trained on the dataset {_name(data)}, and this call has {_name(here)}, "
            "with other pictures, people or vectors. A resumed training is the same run: give its "
            "dataset, or begin another run with these weights: "
            "`out=..., init=...`."
        )
    if now["begun with"] and begun is not None and begun != now["begun with"]:
        raise UsageError(
            f"{where} began with {begun or 'random weights'}, and this call with "
            f"{now['begun with']}. A resumed training goes on from its checkpoint: leave `init` "
            "out, or begin another run: `out=...`."
        )
    other = [
        f"{state[key]!r} {key} then, {now[key]!r} now"
        for key in ("processes", "device")
        if key in state and state[key] != now[key]
    ]
    if other:
        warnings.warn(
            f"{where} was made elsewhere ({'; '.join(other)}). The run goes on, but not bit for "
            "bit as it would have there.",
            FackeWarning,
            stacklevel=3,
        )


def _differences(saved: Recipe, now: Recipe) -> list[str]:
    """List the settings that decide numbers and are not the same, with both values."""
    then, here = (dict(_leaves(to_dict(recipe))) for recipe in (saved, now))
    keys = [key for key in {**then, **here} if key.split(".")[0] not in FREE]
    missing = "nothing"
    return [
        f"{key} is {then.get(key, missing)!r} there and {here.get(key, missing)!r} here"
        for key in keys
        if then.get(key, missing) != here.get(key, missing)
    ]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Give the plain values in nested objects, by dotted path."""
    if not (isinstance(value, Mapping) and value):
        yield path, value
        return
    for key, inner in value.items():
        yield from _leaves(inner, f"{path}.{key}" if path else key)


def _name(data: Mapping[str, Any]) -> str:
    return f"{data.get('name', '')!r} (digest {str(data.get('digest', ''))[:12]})"
