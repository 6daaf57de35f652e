"""Graphs: a generator as ONNX in one file, with any batch size, kept in facke's cache.

Inputs are ``x`` (B, 3, S, S) and the generator's conditions by their names, such as ``identity``
(B, D). Outputs are ``image`` (B, 3, S, S) and whatever else the generator returns, by the names of
``GeneratorOutput.aux``.
"""

from __future__ import annotations

import atexit
import functools
import glob
import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core import _cache
from facke_core._files import replacing
from facke_core._version import __version__
from facke_core.environment import cache_folder, require, versions
from facke_core.errors import CompatibilityError, UsageError, WeightsError
from facke_core.protocols import ExportableGenerator
from facke_core.types import GeneratorOutput

__all__: list[str] = []

ONE_FILE = 3 * 2**29
"""Bytes of tensors from which they lie in a file of their own beside the graph: protobuf ends at
2**31, torch leaves some room."""
OPSETS = range(18, 24)
"""The versions of ONNX's operators that torch writes; see :func:`write_graph`."""


class _Flat(nn.Module):
    """The generator with positional inputs and a tuple of outputs."""

    def __init__(self, generator: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.generator = generator
        self.names = names

    def forward(self, x: Tensor, *conditions: Tensor) -> tuple[Tensor, ...]:
        output: GeneratorOutput = self.generator(
            x, **dict(zip(self.names, conditions, strict=True))
        )
        return (output.image, *output.aux.values())


def probe_inputs(generator: Any, batch: int, *, seed: int = 0) -> dict[str, Tensor]:
    """Make inputs of a generator by name, on the CPU, float32 or integers: pictures with smooth
    areas and detail, unit identities, and whatever else the generator shows by
    :class:`~facke_core.protocols.ExportableGenerator`. They follow from ``seed`` alone.

    Raises:
        CompatibilityError: the generator takes a condition that it does not show.
    """
    spec, rng = generator.spec, torch.Generator().manual_seed(seed)
    size = spec.image_size

    def pictures(cells: int) -> Tensor:
        coarse = torch.rand(batch, 3, cells, cells, generator=rng)
        return F.interpolate(coarse, (size, size), mode="bicubic")

    x = (
        0.6 * pictures(4)
        + 0.3 * pictures(12)
        + 0.1 * torch.rand(batch, 3, size, size, generator=rng)
    )
    x = x.clamp(0, 1)
    if isinstance(generator, ExportableGenerator):
        with torch.no_grad():
            made = {"x": x, **generator.example_inputs(x, rng=rng)}
        return {k: v.cpu().float() if v.is_floating_point() else v.cpu() for k, v in made.items()}
    if own := spec.conditions - {"identity"}:
        raise CompatibilityError(
            f"{type(generator).__name__} takes the conditions {sorted(own)}, but has no method "
            "example_inputs to show what they look like (facke_core.protocols."
            "ExportableGenerator). Add it, or use the backend torch."
        )
    identity = torch.randn(batch, spec.identity_dim, generator=rng)
    return {"x": x, "identity": F.normalize(identity, dim=1)} if spec.conditions else {"x": x}


def run_torch(generator: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Run a generator without gradients; return ``image`` and the rest of its output, by name."""
    with torch.inference_mode():
        output = generator(inputs["x"], **{k: v for k, v in inputs.items() if k != "x"})
    return {"image": output.image, **output.aux}


def max_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest absolute difference of the images, as a share of the range from black to
    white; infinite where there is a NaN."""
    a, b = (output["image"].float().cpu().clamp(0, 1) for output in (found, expected))
    error = float((a - b).abs().max())
    return error if error == error else float("inf")  # not a number


def write_graph(
    generator: nn.Module,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Export a generator in float32 on the CPU; the file appears whole.

    Args:
        generator: in evaluation mode.
        path: where to; replaced if it is there.
        opset: of :data:`OPSETS`; default: the one that torch prefers.
        metadata: what else the file says about itself.

    Raises:
        UnavailableError: the extra ``onnx`` is missing.
        UsageError: an opset that torch does not write.
        CompatibilityError: torch cannot export this network.
        WeightsError: the file cannot be written.
    """
    require("onnx")
    require("onnxscript")
    if opset is not None and opset not in OPSETS:
        raise UsageError(
            f"`opset={opset}` cannot be written. Use {OPSETS[0]} to {OPSETS[-1]}, or leave it out."
        )
    inputs = probe_inputs(generator, 2)
    names = tuple(name for name in inputs if name != "x")
    outputs = list(run_torch(generator, inputs))
    batch = torch.export.Dim("batch", min=1, max=4096)
    size = sum(t.numel() * t.element_size() for t in generator.state_dict().values())
    with quiet():
        try:
            program = torch.onnx.export(
                _Flat(generator, names).eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes={"x": {0: batch}, "conditions": tuple({0: batch} for _ in names)},
                verbose=False,
                opset_version=opset,
            )
        except Exception as error:
            raise CompatibilityError(
                f"torch cannot export {type(generator).__name__} as a graph: "
                f"{type(error).__name__}: {error}. Use the backend torch."
            ) from error
    assert program is not None
    program.model.metadata_props.update(metadata or {})
    with writing(path) as temporary, quiet():
        if size < ONE_FILE:
            program.save(temporary)
        else:
            import onnx_ir  # onnxscript needs it

            data = f"{temporary.name}.{_name(generator, f'opset {opset}')[:16]}.data"
            onnx_ir.save(program.model, temporary, external_data=data)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Do what :func:`~facke_core._files.replacing` does, make the folder, and tell users of errors.

    Tensors beside the graph have a name that is never given to others, so that the graph and they
    change in one step; those of the graph before go afterwards.

    Raises:
        WeightsError: it cannot be written.
    """
    try:
        path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            yield temporary
            new = {file.name for file in temporary.parent.iterdir()}
        for old in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.data"):
            if old.name not in new:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written: {error.strerror or error}. Check the free space and the "
            "rights, or choose another place; FACKE_CACHE moves the cache."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters tell their developers, while inside."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def network_digest(generator: nn.Module) -> str:
    """Return the SHA-256 of a network's kind, settings and numbers, in hexadecimal digits."""
    digest = hashlib.sha256(
        f"{type(generator).__qualname__} {getattr(generator, 'config', '')}".encode()
    )
    for name, value in generator.state_dict().items():
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(array.shape)} {array.dtype}".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def cached_graph(generator: nn.Module) -> Path:
    """Return the graph of a generator in facke's cache, exported on first use.

    It is named by the digest of the network and the versions of what writes graphs. Where it is not
    what was written, it is exported anew; where the cache cannot be used, into a folder of this
    process.

    Raises:
        UnavailableError, CompatibilityError, WeightsError: see :func:`write_graph`.
    """
    name = f"{_name(generator)[:32]}.onnx"
    with suppress(OSError, RuntimeError, WeightsError):  # a cache that cannot be used is none
        path = cache_folder() / "graphs" / name
        if not _cache.sound(path):
            write_graph(generator, path)
            with suppress(OSError):
                _cache.seal(path)
        return path
    if not (own := _own_folder() / name).is_file():
        write_graph(generator, own)
    return own


def _name(generator: nn.Module, more: str = "") -> str:
    """Return a digest of a network and of the versions of what writes graphs."""
    writers = {**versions("torch", "onnx", "onnxscript"), "facke": __version__}
    text = f"{network_digest(generator)} {sorted(writers.items())}{more}"
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _own_folder() -> Path:
    """A folder of this process alone, which goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="facke-graphs-")
    atexit.register(folder.cleanup)
    return Path(folder.name)
