"""Graphs for other programs: exported, compared with torch, and if asked for in 8 bits."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core._files import one_job
from facke_core.backends.graphs import (
    max_error,
    probe_inputs,
    quiet,
    run_torch,
    write_graph,
    writing,
)
from facke_core.backends.runtimes import OnnxRuntimeSession
from facke_core.config import to_dict
from facke_core.environment import require
from facke_core.errors import CompatibilityError, UsageError, VerificationError, WeightsError
from facke_core.pipeline import SwapPipeline
from facke_core.publish.private import without_places
from facke_core.weights.layout import MODEL, config_digest

__all__ = ["Exported", "export"]

TOLERANCE = 1e-4
"""Largest error of an exported graph, where 1 is the range from black to white."""
BATCHES = (1, 3)
"""Batch sizes at which graph and torch are compared."""
MIN_PSNR = 35.0
"""Least PSNR of results in 8 bits against float32, in dB, on average."""
MAX_GAIN_LOSS = 0.01
"""Largest loss of similarity to the source (cosine) by results in 8 bits, on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A graph that was written."""

    path: Path
    opset: int
    """The version of ONNX's operators."""
    bytes: int
    """The size of the file."""
    max_error: Mapping[int, float]
    """Batch size -> largest absolute error against torch, where 1 is the range from black to white;
    that of the float graph also where the file is in 8 bits."""
    int8: Quality | None = None
    """How good the results in 8 bits are; None for a float graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Results in 8 bits beside those in float32."""

    pairs: int
    """The number of pairs that were swapped in both."""
    psnr: float
    """Mean PSNR over the pairs, in dB."""
    max_error: float
    """Largest absolute difference of a value in [0, 1]."""
    gain: float
    """Mean of cos(result, source) - cos(target, source), by the generator's own encoder; NaN
    without one."""
    gain_float: float
    """The same in float32."""

    @property
    def fault(self) -> str:
        """A text that says what is not good enough; empty where everything is."""
        faults = []
        if not self.psnr >= MIN_PSNR:
            faults.append(f"PSNR {self.psnr:.1f} dB is below {MIN_PSNR:g}")
        if not self.gain_float - self.gain <= MAX_GAIN_LOSS:
            faults.append(
                f"the identity gain falls from {self.gain_float:.3f} to {self.gain:.3f}, by more "
                f"than {MAX_GAIN_LOSS:g}"
            )
        return ", and ".join(faults)


def export(
    pipeline: SwapPipeline,
    path: Path,
    *,
    opset: int | None = None,
    crops: Tensor | None = None,
    force: bool = False,
) -> Exported:
    """Write a pipeline's generator as an ONNX graph in one file, and compare it with torch.

    Args:
        pipeline: loaded with the backend torch, in float32, on the CPU.
        path: where to.
        opset: the version of ONNX's operators; default: the one that torch prefers.
        crops: aligned faces (N, 3, S, S), RGB in [0, 1]. If they are given, the graph is quantised
            to 8 bits, calibrated on them, and judged on pairs of them.
        force: overwrite ``path``, and keep a graph in 8 bits that is not good enough.

    Raises:
        UnavailableError: the extra ``onnx`` is missing.
        UsageError: an unknown opset, too few crops, or ``path`` exists.
        CompatibilityError: the generator cannot be exported or quantised.
        WeightsError: the file cannot be written.
        DataError: another job is at work on ``path``, or its folder cannot be written.
        VerificationError: the graph does not compute what torch does, or in 8 bits not well
            enough; nothing is kept.
    """
    for package in ("onnx", "onnxruntime"):
        require(package)
    generator = pipeline.method.generator
    if not isinstance(generator, nn.Module):
        raise CompatibilityError(
            f"{type(generator).__name__} is no torch module: it cannot be exported."
        )
    with one_job(path, beside=True):
        if path.exists() and not force:
            raise UsageError(
                f"{path} exists already. Choose another name, or overwrite it with `force=True`."
            )
        return _exported(pipeline, generator, path, opset=opset, crops=crops, force=force)


def _exported(
    pipeline: SwapPipeline,
    generator: nn.Module,
    path: Path,
    *,
    opset: int | None,
    crops: Tensor | None,
    force: bool,
) -> Exported:
    onnx, ort = require("onnx"), require("onnxruntime")
    with writing(path) as temporary:
        write_graph(generator, temporary, opset=opset, metadata=about(pipeline))
        errors = compare(generator, temporary)
        worst = max(errors.values())
        if not worst <= TOLERANCE:
            raise VerificationError(
                f"The graph differs from torch by up to {worst:.2g} (onnxruntime "
                f"{ort.__version__}); {TOLERANCE:g} is allowed. It was not kept. Try another "
                "`opset=...`, or other versions of torch and onnxruntime."
            )
        quality = None
        if crops is not None:
            quality = _quantised(pipeline, temporary, crops)
            if quality.fault and not force:
                raise VerificationError(
                    f"In 8 bits {quality.fault} ({quality.pairs} pairs). The graph was not kept. "
                    "Export without `crops`, or keep it with `force=True`."
                )
        written = onnx.load(str(temporary), load_external_data=False).opset_import
        size = temporary.stat().st_size
    (number,) = (entry.version for entry in written if entry.domain in ("", "ai.onnx"))
    return Exported(path=path, opset=number, bytes=size, max_error=errors, int8=quality)


def about(pipeline: SwapPipeline) -> dict[str, str]:
    """Return what a graph's metadata says of it."""
    spec = pipeline.method.generator.spec
    contract = {
        "x": f"(B, 3, {spec.image_size}, {spec.image_size}), {spec.x}",
        "conditions": sorted(spec.conditions),
        "identity_dim": spec.identity_dim,
        "image": "the result, RGB, to be clamped to [0, 1]",
        "alignment": {
            "template": pipeline.alignment.template,
            "size": pipeline.alignment.size,
        },
    }
    source = pipeline.source
    if source is None:
        return {"facke.contract": json.dumps(contract)}
    config = source.config
    return {
        "facke.method": config.method,
        "facke.weights": source.name,
        "facke.config_sha256": config_digest(config),
        "facke.weights_sha256": config.files[MODEL].sha256 if MODEL in config.files else "",
        "facke.license": config.license,
        "facke.identity_encoder": json.dumps(without_places(to_dict(config)["identity_encoder"])),
        "facke.contract": json.dumps(contract),
    }


def compare(generator: Any, graph: Path, batches: Sequence[int] = BATCHES) -> dict[int, float]:
    """Compare a graph in ONNX Runtime with torch on seeded inputs; batch size -> largest error."""
    session = OnnxRuntimeSession(graph)
    errors = {}
    for batch in batches:
        inputs = probe_inputs(generator, batch, seed=batch)
        errors[batch] = max_error(session.run(inputs), run_torch(generator, inputs))
    return errors


def _quantised(pipeline: SwapPipeline, graph: Path, crops: Tensor) -> Quality:
    """Replace the graph by one in 8 bits; say how good it is."""
    if own := pipeline.method.generator.spec.conditions - {"identity"}:
        raise CompatibilityError(
            f"Graphs with the conditions {', '.join(sorted(own))} are not quantised: calibration "
            "on faces and identities alone says little of them. Export without `crops`."
        )
    if len(crops) < 2:
        raise UsageError(f"`crops` needs at least 2 faces to calibrate on, but got {len(crops)}.")
    identities = pipeline.encode(crops)
    pairs = [(s, (s + step) % len(crops)) for step in (1, 3) for s in range(len(crops))]
    sources, targets = map(list, zip(*dict.fromkeys(p for p in pairs if p[0] != p[1]), strict=True))
    inputs = {"x": crops[targets]}
    if pipeline.method.generator.spec.conditions:
        inputs["identity"] = identities[sources]
    quantise(graph, inputs)
    session = OnnxRuntimeSession(graph)
    small = torch.cat([session.run(row)["image"] for row in rows(inputs)]).clamp(0, 1)
    plain = torch.cat([run_torch(pipeline.method.generator, row)["image"] for row in rows(inputs)])
    plain = plain.clamp(0, 1)
    mse = (small - plain).square().mean((1, 2, 3)).clamp(min=1e-12)

    def gain(images: Tensor) -> float:
        if pipeline.identity_encoder is None:
            return math.nan
        near = F.cosine_similarity(pipeline.encode(images), identities[sources])
        before = F.cosine_similarity(identities[targets], identities[sources])
        return float((near - before).mean())

    return Quality(
        pairs=len(sources),
        psnr=float((-10 * mse.log10()).mean()),
        max_error=float((small - plain).abs().max()),
        gain=gain(small),
        gain_float=gain(plain),
    )


def rows(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Cut a batch into batches of one."""
    count = len(next(iter(inputs.values())))
    return [{k: v[i : i + 1] for k, v in inputs.items()} for i in range(count)]


def quantise(graph: Path, calibration: Mapping[str, Tensor]) -> None:
    """Rewrite a float graph: convolutions in 8 bits, by static quantisation (QDQ).

    The first and the last convolution, depthwise ones and everything else stay in float32.

    Args:
        graph: changed in place.
        calibration: inputs; their batch is run one by one.
    """
    onnx = require("onnx")
    tools = require("onnxruntime.quantization")
    convolutions = [node for node in onnx.load(str(graph)).graph.node if node.op_type == "Conv"]
    groups = [next((a.i for a in node.attribute if a.name == "group"), 1) for node in convolutions]
    dense = [node for node, group in zip(convolutions, groups, strict=True) if group == 1]
    left = {node.name for node in (*dense[:1], *dense[-1:])}
    chosen = [node.name for node in dense if node.name not in left]
    if not chosen:
        raise CompatibilityError("This graph has no inner convolutions to quantise.")
    stream = iter([{k: v.numpy() for k, v in row.items()} for row in rows(calibration)])

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined, misc]
        def get_next(self) -> Any:
            return next(stream, None)

    with writing(graph) as temporary, quiet():
        try:
            tools.quantize_static(
                str(graph),
                str(temporary),
                Reader(),
                quant_format=tools.QuantFormat.QDQ,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                per_channel=True,
                nodes_to_quantize=chosen,
            )
        except (ValueError, RuntimeError) as error:
            raise WeightsError(
                f"onnxruntime cannot quantise this graph: {error}. Export without `crops`."
            ) from error
