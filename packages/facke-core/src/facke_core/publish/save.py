"""``save`` writes a folder of weights that :func:`facke_core.load` reads back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facke_core._files import write_bytes
from facke_core.config import to_dict, write_json
from facke_core.errors import UsageError, WeightsError
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import Method
from facke_core.publish._curves import curves_beside
from facke_core.publish.card import model_card
from facke_core.publish.golden import try_golden
from facke_core.weights import layout
from facke_core.weights.layout import MODEL, FormatInfo, WeightsConfig
from facke_core.weights.rewriting import rewriting

__all__: list[str] = []


def save(
    model: Method | SwapPipeline,
    folder: str | os.PathLike[str],
    config: WeightsConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, nn.Module] | None = None,
    golden: bool = True,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> WeightsConfig:
    """Write ``config.json``, ``model.safetensors`` and a model card for :func:`facke_core.load`::

        save(swapper, "my-weights")
        swapper = load("./my-weights")

    Args:
        model: a built method, or a loaded pipeline.
        folder: where to; made if it is missing. It appears whole, with what else is in it.
        config: what to write into ``config.json``; default: the pipeline's own. ``files`` and
            ``facke`` are filled in here. Logs under ``training.logs`` stay named where they lie in
            the folder.
        dtype: how floating-point tensors are stored.
        extra: further modules, e.g. ``{"discriminator": d}``, for their own safetensors files.
        golden: add golden tensors (:mod:`facke_core.publish.golden`), with which others can verify
            that the weights still compute the same. That runs the generator once, on the CPU.
        overwrite: replace weights that lie in ``folder``. Whoever reads it, or comes after a crash,
            finds the old ones or the new ones.

    Returns:
        The configuration as written.

    Raises:
        UsageError: a bare method, and no ``config``.
        WeightsError: nothing to save, or the folder holds weights or cannot be written.

    Warns:
        FackeWarning: there are no golden tensors, because the method cannot run here.
    """
    method = model.method if isinstance(model, SwapPipeline) else model
    if config is None:
        if not isinstance(model, SwapPipeline) or model.source is None:
            raise UsageError("save() needs config=WeightsConfig(...) for a bare method.")
        config = model.source.config
    if not isinstance(method.generator, nn.Module):
        raise WeightsError(
            f"The generator of {config.method!r} is no torch module: nothing to save."
        )
    folder = Path(folder)
    if (folder / layout.CONFIG).exists() and not overwrite:
        raise WeightsError(f"{folder} holds weights already. Choose another folder or overwrite.")
    modules = {MODEL: method.generator} | {
        f"{name}.safetensors": module for name, module in (extra or {}).items()
    }
    registry = registry or default_registry()
    try:
        with rewriting(folder) as made:
            return write(made, modules, config, dtype, golden=golden, registry=registry)
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be written: {error}. Choose another folder."
        ) from error


def write(
    folder: Path,
    modules: Mapping[str, nn.Module],
    config: WeightsConfig,
    dtype: torch.dtype,
    *,
    golden: bool,
    registry: Registry,
) -> WeightsConfig:
    """Do what :func:`save` does in a folder that nobody reads yet.

    Args:
        folder: may hold logs already.
        modules: name of a file -> what it holds.
        config: as for ``save``, like the rest.
    """
    files = layout.write_tensors(folder, modules, config, dtype)
    header = FormatInfo(written_by=author(config.method, registry))
    training = _with_logs_of(folder, config)
    config = replace(config, files=files, facke=header, training=training)
    if golden:
        config = try_golden(folder, config, registry=registry)
    else:
        write_json(folder / layout.CONFIG, to_dict(config))
    card = model_card(config, curves=curves_beside(folder, config), folder=folder.name)
    write_bytes(folder / layout.CARD, card.encode())
    return config


def _with_logs_of(folder: Path, config: WeightsConfig) -> dict[str, Any]:
    """Return the provenance without logs that do not lie in ``folder``, as those of a pipeline that
    came from another one."""
    logs = layout.logs_of(config)
    kept = {name: digest for name, digest in logs.items() if (folder / name).is_file()}
    training = {key: value for key, value in config.training.items() if key != "logs" or not logs}
    return training | ({"logs": kept} if kept else {})


def author(method: str, registry: Registry) -> str:
    """Name the distribution whose plugin owns the method, and its version: ``facke-gan 0.1.0``."""
    spec = registry.methods[method]
    owner = registry.methods.owners[spec.name]
    info = next(info for info in registry.plugins() if info.name == owner)
    return f"{info.distribution or owner} {info.version}".strip()
