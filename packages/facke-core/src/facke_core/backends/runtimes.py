"""Runtimes compute ONNX graphs, in the place of a torch generator: ONNX Runtime and OpenVINO.

Nothing is sent anywhere: graphs are read by ``openvino.Core.read_model``; the converter ``ovc``,
whose telemetry would, is not used.
"""

from __future__ import annotations

import functools
import tempfile
import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from facke_core.backends import rewrites
from facke_core.environment import require
from facke_core.errors import UsageError
from facke_core.types import GeneratorOutput, GeneratorSpec

__all__: list[str] = []


class GraphSession(Protocol):
    """A graph that is ready to run on the CPU."""

    names: frozenset[str]
    """Names of its inputs."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute outputs by name, float32, from inputs by name: float32, or int64."""
        ...


class OnnxRuntimeSession:
    """A session of ONNX Runtime, on as many threads as torch uses.

    Raises:
        UnavailableError: the extra ``onnx`` is missing.
    """

    def __init__(self, graph: Path) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            str(graph), options, providers=["CPUExecutionProvider"]
        )
        self.names = frozenset(port.name for port in self._session.get_inputs())
        self._outputs = [port.name for port in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = self._session.run(None, {k: v.contiguous().numpy() for k, v in inputs.items()})
        return {k: torch.from_numpy(v) for k, v in zip(self._outputs, arrays, strict=True)}


class OpenVinoSession:
    """A session of OpenVINO, on as many threads as torch uses.

    The graph is compiled for one face, and a batch is computed face by face: with the batch as a
    part of the shape known, OpenVINO joins more operations. Several threads may call it; they wait
    for each other, since a request serves one at a time. In bfloat16, large convolutions are
    computed by Winograd's algorithm (:mod:`facke_core.backends.rewrites`).

    Args:
        graph: an ONNX file.
        dtype: ``float32``, or ``bfloat16`` for matrix products and for convolutions but the first
            (:data:`EXACT`), whose errors all that follows amplifies. Everything else is float32
            then too.

    Raises:
        UnavailableError: the extra ``openvino`` is missing.
    """

    def __init__(self, graph: Path, dtype: torch.dtype = torch.float32) -> None:
        core = openvino_core()
        settings = {
            # what it would take by itself depends on the processor, and may be bfloat16
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        model = core.read_model(str(graph))
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        if dtype == torch.bfloat16:
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
            rewrites.winograd(model)
            model = _mixed(core, model)
        self._lock = threading.Lock()
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()
        self.names = frozenset(port.get_any_name() for port in model.inputs)
        self._outputs = [port.get_any_name() for port in model.outputs]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        faces: dict[str, list[Tensor]] = {name: [] for name in self._outputs}
        for rows in zip(*(value.split(1) for value in inputs.values()), strict=True):
            face = {k: v.contiguous().numpy() for k, v in zip(inputs, rows, strict=True)}
            with self._lock:
                outputs = self._request.infer(face)
                for name, made in faces.items():
                    made.append(torch.from_numpy(outputs[name].copy()))
        return {name: torch.cat(made) for name, made in faces.items()}


_making_the_core = threading.Lock()


def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which is never freed.

    For AMX, the CPU plugin of a core replaces the alternate signal stack of the thread, and puts
    the one before back when it goes. If two cores go in the order in which they came, that is at
    last the freed stack of the first, and then the next signal with a Python handler (Ctrl-C, the
    end of a data loader's worker) kills the process without a word.

    Raises:
        UnavailableError: the extra ``openvino`` is missing.
    """
    openvino = require("openvino")
    with _making_the_core:
        return _only_core(openvino)


@functools.cache
def _only_core(openvino: Any) -> Any:
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # files go while what was read from them is in use
    return core


EXACT = 1
"""Number of convolutions that stay in float32 at the beginning."""
_NO_WORK = ("Const", "Parameter", "Result")
_FLOAT32 = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}


def _mixed(core: Any, model: Any) -> Any:
    """Mark what is to stay in float32 where the rest of a model becomes bfloat16; return it marked.

    OpenVINO's Python cannot set such marks, but its files can hold them. Besides errors this
    avoids the depthwise convolutions in bfloat16, in which OpenVINO 2026.4 never returns.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        require("openvino").serialize(model, str(path))
        tree = ET.parse(path)
        for layer in _exact(tree.findall("layers/layer")):
            marks = layer.find("rt_info")
            if marks is None:
                marks = ET.Element("rt_info")
                layer.insert(int(layer.find("data") is not None), marks)
            marks.append(ET.Element("attribute", _FLOAT32))
        tree.write(path)
        return core.read_model(str(path))


def _exact(layers: list[ET.Element]) -> list[ET.Element]:
    """Choose the layers to compute in float32, of all in the order of computation."""
    products = [layer for layer in layers if layer.attrib["type"] == "Convolution"][EXACT:]
    products += [layer for layer in layers if layer.attrib["type"] == "MatMul"]
    return [
        layer
        for layer in layers
        if layer.attrib["type"] not in _NO_WORK
        and layer not in products
        and not layer.attrib["name"].startswith(rewrites.LOW)
    ]


class GraphGenerator:
    """A generator whose ``forward`` is computed by a session.

    Everything else, whatever attributes it has, is the torch generator's, and so is what the graph
    has no input for, such as the noise of an autoencoder, or pictures of another size.
    """

    def __init__(self, generator: nn.Module, session: GraphSession) -> None:
        self.torch_generator = generator
        self.session = session

    def __getattr__(self, name: str) -> Any:
        if name == "torch_generator":  # not made yet
            raise AttributeError(name)
        return getattr(self.torch_generator, name)

    def __reduce__(self) -> tuple[Any, ...]:
        raise UsageError(
            f"A generator that {type(self.session).__name__} computes cannot be pickled or copied. "
            "Load the pipeline in each process, or use the backend torch."
        )

    @property
    def spec(self) -> GeneratorSpec:
        """Sizes and conditions of the torch generator."""
        spec: GeneratorSpec = self.torch_generator.spec  # type: ignore[assignment]
        return spec

    def forward(self, x: Tensor, *args: Any, **conditions: Any) -> GeneratorOutput:
        """Compute what the torch generator does, by the session where the graph can."""
        given = {name: value for name, value in conditions.items() if value is not None}
        size = self.spec.image_size
        if args or {"x", *given} != self.session.names or x.shape[2:] != (size, size):
            output: GeneratorOutput = self.torch_generator(x, *args, **conditions)
            return output
        inputs = {"x": x, **given}
        ready = {k: v.detach().cpu() for k, v in inputs.items()}
        ready = {k: v.float() if v.is_floating_point() else v.long() for k, v in ready.items()}
        outputs = {k: v.to(x.device) for k, v in self.session.run(ready).items()}
        return GeneratorOutput(outputs.pop("image"), outputs)

    __call__ = forward
