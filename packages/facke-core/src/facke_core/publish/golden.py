"""Golden tensors: seeded inputs and what these weights made of them, replayed by ``verify``.

Digests prove that the files are those that were published; a replay proves that this facke, torch
and processor still compute the same with them. ``test/io.safetensors`` holds

| tensor | |
| --- | --- |
| ``source`` | (3, P, P) uint8, enlarged to (1, 3, S, S) for the method |
| ``target`` | the same |
| ``identity`` | (D,) float32, unit norm; absent where the generator takes no identity |
| ``output`` | (3, N) float32 in [0, 1]: every ``stride``-th pixel of the result, row by row |

and in its metadata the seed of the noise and the number of steps that keep the replay short. The
tolerance is always :data:`TOLERANCE`. Identities are given, so no encoder is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import _json
from facke_core._files import write_bytes
from facke_core.building import build_method
from facke_core.config import from_dict, to_dict, updated, write_json
from facke_core.errors import ConfigError, FackeError, FackeWarning, VerificationError, WeightsError
from facke_core.faces.templates import Alignment
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import Method
from facke_core.types import SwapInputs
from facke_core.weights import layout
from facke_core.weights.layout import GOLDEN, MODEL, FileInfo, WeightsConfig
from facke_core.weights.tensors import check_format, to_bytes

__all__ = ["replay", "verify"]

TOLERANCE = 0.002
"""Largest difference of a value in [0, 1]: half of what one step of an 8-bit picture is."""
SEED = 0
STEPS = 4
"""Steps of the replay, for samplers that take more."""
_MAX_STEPS = 64
"""Most steps that a file may ask for."""
_SIDE = 48
"""Side P of the pictures."""
_PIXELS = 4096
"""Pixels of the output that are kept, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay found."""

    max_error: float
    """Largest absolute difference of a value in [0, 1] from the expected one."""
    tolerance: float
    """Largest difference that is allowed."""
    made_with: str
    """Versions that computed the expected output."""

    @property
    def ok(self) -> bool:
        """True where the result is the expected one."""
        return self.max_error <= self.tolerance  # nan is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What :func:`verify` looked at; all of it was right."""

    files: dict[str, str]
    """Name -> SHA-256, those of logs included."""
    tensors: int
    """The number of tensors in the generator."""
    parameters: int
    """The number of values in them."""
    replay: Replay | None
    """The replay of its golden tensors; None where it has none."""


def verify(folder: Path, config: WeightsConfig, *, registry: Registry | None = None) -> Verified:
    """Compare every digest and number format, look for numbers that are not finite, fill the
    network strictly and replay the golden tensors, if there are any.

    Args:
        folder: a complete folder of weights.
        config: its ``config.json``, read.
        registry: where the method is looked up; default: everything installed.

    Raises:
        VerificationError: a file is not what ``config.json`` says, holds numbers that are not
            finite, or the replay differs.
        WeightsError: a file is missing, or the tensors do not fit the network.
        FackeError: the method is not installed or refuses the configuration.
    """
    registry = registry or default_registry()
    files = layout.check_files(folder, config)
    for name in config.files:
        if name not in (MODEL, GOLDEN):
            layout.read_tensors(folder, name, config)
    method = _built(folder, config, registry)
    for name, info in config.files.items():
        check_format(folder / name, info.dtype)
    own = cast(nn.Module, method.generator).state_dict()
    replayed = _replay(folder, config, method) if GOLDEN in config.files else None
    if replayed and not replayed.ok:
        raise VerificationError(
            f"{folder} does not compute what it did: the results of its golden tensors differ by "
            f"up to {replayed.max_error:.3g}, allowed are {replayed.tolerance:g}. The expected "
            f"ones were made with {replayed.made_with}. Install these versions, or report it to "
            "the authors of the method."
        )
    return Verified(
        files=files,
        tensors=len(own),
        parameters=sum(tensor.numel() for tensor in own.values()),
        replay=replayed,
    )


def write_golden(
    folder: str | os.PathLike[str],
    config: WeightsConfig | None = None,
    *,
    registry: Registry | None = None,
) -> WeightsConfig:
    """Add golden tensors to a folder of weights, and write its ``config.json`` with their digest.

    Args:
        folder: holds ``model.safetensors``.
        config: what to write into ``config.json``; default: what it holds.
        registry: where the method is looked up.

    Returns:
        The configuration as written.

    Raises:
        FackeError: the weights cannot be read or run.
        WeightsError: the folder cannot be written.
    """
    folder, registry = Path(folder), registry or default_registry()
    config = config or layout.read_weights_config(folder)
    data, config = make_golden(folder, config, registry=registry)
    path = folder / GOLDEN
    try:
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error}. Check the folder.") from error
    write_json(folder / layout.CONFIG, to_dict(config))
    return config


def make_golden(
    folder: Path, config: WeightsConfig, *, registry: Registry | None = None
) -> tuple[bytes, WeightsConfig]:
    """Make the golden tensors of a folder of weights, and its configuration with their digest; the
    folder stays as it is.

    What is stored is computed in float32 on the CPU from the tensors in the folder, as they were
    rounded when they were saved. torch's random state stays as it was.

    Returns:
        The content of ``test/io.safetensors``, and what ``config.json`` has to say with it.

    Raises:
        FackeError: the weights cannot be read or run.
    """
    try:
        data = _golden(folder, config, registry or default_registry())
    except FackeError:
        raise
    except Exception as error:  # of a plugin's sampler
        raise WeightsError(
            f"{type(error).__name__}: {error}. It came from the method {config.method!r}, which "
            "could not run. Report it to the authors of the method."
        ) from error
    info = FileInfo(sha256=hashlib.sha256(data).hexdigest(), dtype="float32")
    return data, replace(config, files={**config.files, GOLDEN: info})


def try_golden(folder: Path, config: WeightsConfig, *, registry: Registry) -> WeightsConfig:
    """Call :func:`write_golden`, or where the method cannot run write ``config.json`` and warn.

    Warns:
        FackeWarning: says why there are no golden tensors.
    """
    try:
        return write_golden(folder, config, registry=registry)
    except FackeError as error:  # the weights themselves are fine
        if isinstance(error.__cause__, OSError):  # but the disk is not
            raise
        warnings.warn(f"{folder.name} gets no golden tensors: {error}", FackeWarning, stacklevel=3)
        write_json(folder / layout.CONFIG, to_dict(config))
        return config


def replay(folder: Path, config: WeightsConfig, *, registry: Registry | None = None) -> Replay:
    """Run the method on the inputs of ``test/io.safetensors``, in float32 on the CPU.

    Noise follows from the seed in the file; torch's random state stays as it was.

    Raises:
        VerificationError: the file is not the one that ``config.json`` lists, or not golden
            tensors at all.
        WeightsError: a file is missing, or the tensors do not fit the network.
    """
    return _replay(folder, config, _built(folder, config, registry or default_registry()))


def _replay(folder: Path, config: WeightsConfig, method: Method) -> Replay:
    tensors, about, _ = layout.read_file(folder, GOLDEN, config)
    try:
        settings = from_dict(_Settings, _json.parse(about["settings"]), where="settings")
        seed, stride = int(about["seed"][:20]), int(about["stride"][:20])
        expected = tensors["output"]
        inputs = tensors["source"], tensors["target"], tensors.get("identity")
        dim, size = method.generator.spec.identity_dim, method.generator.spec.image_size
        if any(
            picture.dtype != torch.uint8 or picture.shape[:-2] != (3,) or not picture.numel()
            for picture in inputs[:2]
        ):
            raise ValueError("its pictures are none")
        if (tuple(inputs[2].shape) if inputs[2] is not None else (0,)) != (dim,):
            raise ValueError(f"it has no identity of {dim} numbers")
        if any(t is not None and t.dtype != torch.float32 for t in (inputs[2], expected)):
            raise ValueError("its identity or its output are not in float32")
        if not -(2**63) <= seed < 2**63 or stride != _stride(size**2):
            raise ValueError("its seed is none, or its stride is not that of this size")
    except (KeyError, ValueError, ConfigError) as error:
        raise VerificationError(
            f"{folder / GOLDEN} holds no golden tensors of facke ({error!r}). Remove it and its "
            f"entry in {layout.CONFIG}, or get the weights again."
        ) from error
    output = _run(method, config, settings.given(), inputs, seed)[:, ::stride]
    if output.shape != expected.shape:
        raise VerificationError(
            f"{folder / GOLDEN} expects {tuple(expected.shape)} values, the method gives "
            f"{tuple(output.shape)}. Get the weights again."
        )
    return Replay(
        max_error=(output - expected).abs().max().item(),
        tolerance=TOLERANCE,
        made_with=about.get("made_with", "unknown versions"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """Settings of the sampler that keep the replay short; no others are taken from the file."""

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and not 1 <= self.steps <= _MAX_STEPS:
            raise ValueError(f"steps={self.steps} is no short replay")

    def given(self) -> dict[str, Any]:
        return {} if self.steps is None else {"steps": self.steps}


def _stride(pixels: int) -> int:
    """Return which pixels of the output are kept: every n-th. An odd n meets every column."""
    return -(-pixels // _PIXELS) | 1


def _golden(folder: Path, config: WeightsConfig, registry: Registry) -> bytes:
    method = _built(folder, config, registry)
    spec = method.generator.spec
    rng = torch.Generator().manual_seed(SEED)
    source, target = _picture(rng), _picture(rng)
    identity = None
    if spec.identity_dim:
        identity = F.normalize(torch.randn(spec.identity_dim, generator=rng), dim=0)
    steps = getattr(method.sampler, "steps", None)
    settings = {"steps": STEPS} if isinstance(steps, int) and steps > STEPS else {}
    output = _run(method, config, settings, (source, target, identity), SEED)
    if not output.isfinite().all():
        raise WeightsError(f"{folder}: the weights turn pictures into values that are not finite.")
    stride = _stride(output.shape[1])
    tensors = {"source": source, "target": target, "output": output[:, ::stride].contiguous()}
    if identity is not None:
        tensors["identity"] = identity
    metadata = {
        "format": "pt",
        "seed": str(SEED),
        "stride": str(stride),
        "settings": json.dumps(settings),
        "made_with": f"torch {torch.__version__}, {config.facke.written_by}".rstrip(", "),
        "config_sha256": layout.config_digest(config),
    }
    return to_bytes(tensors, metadata)


def _picture(rng: torch.Generator) -> Tensor:
    """Draw a picture (3, P, P) uint8: smooth blobs with some detail."""
    image = torch.full((1, 3, _SIDE, _SIDE), 0.5)
    for size, strength in ((3, 0.5), (12, 0.25), (_SIDE, 0.1)):
        noise = torch.rand((1, 3, size, size), generator=rng) - 0.5
        image += strength * F.interpolate(noise, (_SIDE, _SIDE), mode="bilinear")
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8)


def _built(folder: Path, config: WeightsConfig, registry: Registry) -> Method:
    """Build the method in float32 on the CPU, filled from the folder."""
    read = partial(layout.read_tensors, folder, MODEL, config)
    method = build_method(config, registry=registry, read=read, source=str(folder))
    if not isinstance(method.generator, nn.Module):
        raise WeightsError(f"The generator of {config.method!r} is no torch module.")
    method.generator.float().eval().requires_grad_(False)
    return method


def _run(
    method: Method,
    config: WeightsConfig,
    settings: Mapping[str, Any],
    inputs: tuple[Tensor, Tensor, Tensor | None],
    seed: int,
) -> Tensor:
    """Run the sampler, and return the result as (3, S * S)."""
    sampler = updated(method.sampler, settings, where="sampler") if settings else method.sampler
    size = method.generator.spec.image_size
    source, target, identity = inputs
    framing = config.alignment
    crops = SwapInputs(
        source=_enlarged(source, size),
        target=_enlarged(target, size),
        identity=torch.zeros(1, 0) if identity is None else identity[None],
        alignment=from_dict(Alignment, framing, where="alignment") if framing else None,
    )
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)  # for samplers that do not keep to rng
        result: Tensor = sampler(method.generator, crops, rng=rng)
    return result[0].float().cpu().flatten(1).clone()


def _enlarged(picture: Tensor, size: int) -> Tensor:
    return F.interpolate(picture[None].float() / 255, (size, size), mode="bilinear")
