"""ONNX graphs of recognisers: their initialisers, where the graph is one that is known.

The nodes are followed from the picture to the embedding and each must be what the network has at
that place; BatchNorm behind a convolution is folded into it, if the export has not done so.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facke_core._files import check_regular
from facke_core.convert.kinds import Checkpoint, Converted, fits
from facke_core.errors import UnavailableError, VerificationError, WeightsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__: list[str] = []

MAX_BYTES = 2**30
MAX_OTHER = 2 * 2**20
"""Most bytes of a graph beside its weights; that of a ResNet of 100 layers has about 200 kB."""
_GRAPH, _INITIALIZER, _NUMBERS = 7, 5, (4, 9)  # fields of ModelProto, GraphProto, TensorProto
_MAX_BLOCKS = 100
_SAME = ("Identity", "Dropout")
_NOTICE = "insightface publishes its models for non-commercial research only."


def read_graph(path: Path) -> Any:
    """Read the ``onnx.ModelProto`` of a file; what it says of further files is not followed.

    Raises:
        WeightsError: the file cannot be read, or is larger than 1 GiB.
        UnavailableError: the package onnx is missing.
        VerificationError: it is no ONNX file.
    """
    try:
        import onnx
    except ImportError as error:
        raise UnavailableError(
            f"{path} is an ONNX graph, which needs the package onnx to read: {error}. Run "
            '`pip install "facke-core[onnx]"`.'
        ) from error
    try:
        check_regular(path)
        if path.stat().st_size > MAX_BYTES:
            raise WeightsError(f"{path} is larger than 1 GiB: no recogniser is, so it is not read.")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}. Check its rights.") from error
    try:
        _other_bytes(data, 0, len(data), (_GRAPH, _INITIALIZER))
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own errors, which differ between its versions
        raise VerificationError(
            f"{path} is not an ONNX file ({type(error).__name__}). It is damaged; get it again."
        ) from error
    if not model.graph.node:
        raise VerificationError(f"{path} is not an ONNX file: it has no graph. Get it again.")
    return model


def _other_bytes(data: bytes, start: int, stop: int, inside: tuple[int, ...]) -> int:
    """Count the bytes of a protobuf message that are not numbers of weights.

    Two bytes can become an empty node, which takes a hundred times the memory.

    Raises:
        ValueError: more than :data:`MAX_OTHER`, or no protobuf.
    """
    other = 0
    while start < stop:
        begin = start
        tag, start = _varint(data, start)
        field, kind = tag >> 3, tag & 7
        if kind == 2:
            length, start = _varint(data, start)
            end = start + length
        elif kind == 0:
            _, end = _varint(data, start)
        else:
            end = start + {1: 8, 5: 4}[kind]
        if end > stop:
            raise ValueError("a part of it ends beyond it")
        if kind == 2 and inside and field == inside[0]:
            other += start - begin + _other_bytes(data, start, end, inside[1:])
        elif kind == 2 and not inside and field in _NUMBERS:
            other += start - begin
        else:
            other += end - begin
        if other > MAX_OTHER:
            raise ValueError("it holds more than nodes and weights need")
        start = end
    return other


def _varint(data: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("it is no protobuf")


def insightface(checkpoint: Checkpoint) -> Converted | None:
    """Convert a recogniser of insightface as ONNX: ``w600k_r50`` (buffalo) and its kin.

    Raises:
        WeightsError: the graph is another one.
    """
    from facke_core.identity.insightface import insightface_layout

    if checkpoint.graph is None:
        return None
    checkpoint.no_settings()
    arrays = _Walk(checkpoint.graph, checkpoint.path).network()
    import torch

    state = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    source = str(checkpoint.path)
    fits(lambda: insightface_layout(state, source), state, source=source, built_by="its graph")
    blocks = sum(name.endswith(".conv2.weight") for name in state)
    return Converted(
        summary=f"insightface recogniser, an improved ResNet of {blocks} blocks",
        tensors=state,
        encoder={"name": "arcface", "normalize": "half"},
        license="LicenseRef-insightface-non-commercial",
        notice=_NOTICE,
        notes=(
            'It was trained on the template arcface: add "crop_template" with the template of '
            "your crops, such as simswap_frontal, so that they are brought to it.",
        ),
    )


class _Unknown(Exception):
    """The graph is another one; says where."""


class _Walk:
    """Follows a graph from its input; every step names the node it wants."""

    def __init__(self, model: Any, path: Path) -> None:
        self.graph, self.path = model.graph, path
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.initial = {tensor.name: tensor for tensor in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                self.initial[node.output[0]] = node.attribute[0].t

    def network(self) -> dict[str, Array]:
        """The tensors under the names of :class:`InsightFaceResNet`.

        Raises:
            WeightsError: the graph is another one; says what was found.
        """
        try:
            return self._network()
        except (_Unknown, LookupError, TypeError, ValueError) as error:
            why = error if isinstance(error, _Unknown) else "a node of it lacks something"
            ops = Counter(node.op_type for node in self.graph.node)
            inputs = [i.name for i in self.graph.input if i.name not in self.initial]
            listed = ", ".join(f"{count} {name}" for name, count in ops.most_common(8))
            raise WeightsError(
                f"{self.path} holds a graph that facke has no network for: {why}. It has the "
                f"inputs {', '.join(inputs)[:80]} and the nodes {listed}. Only insightface's "
                "residual recognisers (w600k_r50, r18, r34, r100) can be read; its MobileFaceNets, "
                "detectors and inswapper have networks of their own."
            ) from error

    def _network(self) -> dict[str, Array]:
        inputs = [i.name for i in self.graph.input if i.name not in self.initial]
        if len(inputs) != 1:
            raise _Unknown(f"it takes {len(inputs)} inputs, a recogniser one picture")
        state: dict[str, Array] = {}
        x = self._conv(inputs[0], "conv1", state, size=3, stride=1)
        x = self._prelu(x, "prelu", state)
        stage, number = 0, 0
        while len(self.users.get(x, ())) == 2:
            halves = self._halves(x)
            stage, number = (stage + 1, 0) if halves else (stage, number + 1)
            if not 1 <= stage <= 4 or number >= _MAX_BLOCKS:
                raise _Unknown("it does not have four stages of blocks")
            x = self._block(x, f"layer{stage}.{number}", state, stride=2 if halves else 1)
        x = self._norm(x, "bn2", state)
        x = self._linear(self._flat(x), state)
        x = self._norm(x, "features", state)
        if x not in {output.name for output in self.graph.output}:
            raise _Unknown("it goes on behind the embedding")
        return state

    def _halves(self, x: str) -> bool:
        return any(node.op_type == "Conv" for node in self.users[x])

    def _block(self, x: str, prefix: str, state: dict[str, Array], *, stride: int) -> str:
        y = self._norm(x, f"{prefix}.bn1", state)
        y = self._conv(y, f"{prefix}.conv1", state, size=3, stride=1)
        y = self._prelu(y, f"{prefix}.prelu", state)
        y = self._conv(y, f"{prefix}.conv2", state, size=3, stride=stride)
        if stride == 2:
            x = self._conv(x, f"{prefix}.downsample", state, size=1, stride=2)
        node = self._node(y, "Add")
        if set(node.input) != {x, y}:
            raise _Unknown(f"{prefix} adds something else than its input")
        return node.output[0]

    # -- single nodes ------------------------------------------------------------------------

    def _node(self, x: str, op: str) -> Any:
        """The one node of this kind that uses ``x``."""
        matching = [node for node in self.users.get(x, ()) if node.op_type == op]
        if len(matching) != 1 or not matching[0].output:
            kinds = ", ".join(node.op_type for node in self.users.get(x, ())) or "nothing"
            raise _Unknown(f"where {op} belongs, it has {kinds}")
        return matching[0]

    def _array(self, name: str) -> Array:
        from onnx import numpy_helper

        tensor = self.initial.get(name)
        if tensor is None or tensor.data_location or len(tensor.dims) > 4:
            raise _Unknown("a weight of it lies in another file, or is computed")
        try:
            return numpy_helper.to_array(tensor).astype(np.float32)
        except Exception as error:
            raise _Unknown(f"a weight of it cannot be read ({type(error).__name__})") from error

    def _conv(self, x: str, name: str, state: dict[str, Array], *, size: int, stride: int) -> str:
        node = self._node(x, "Conv")
        given = {a.name: list(a.ints) or a.i for a in node.attribute}
        pad = [size // 2] * 4
        wanted = {
            "kernel_shape": [size, size],
            "strides": [stride] * 2,
            "pads": pad,
            "dilations": [1, 1],
            "group": 1,
        }
        odd = {key for key, value in given.items() if key in wanted and wanted[key] != value}
        if odd or ("pads" not in given and size > 1) or ("strides" not in given and stride > 1):
            raise _Unknown(f"{name} is another convolution ({', '.join(sorted(odd)) or 'pads'})")
        weight = self._array(node.input[1])
        if weight.ndim != 4 or weight.shape[2:] != (size, size):
            raise _Unknown(f"{name} is not a {size}x{size} convolution")
        bias = self._array(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight))
        out = node.output[0]
        users = self.users.get(out, ())
        if len(users) == 1 and users[0].op_type == "BatchNormalization":
            scale, shift, mean, var = self._statistics(users[0], name)
            factor = scale / np.sqrt(var.astype(np.float64) + self._eps(users[0]))
            if len(factor) != len(weight):
                raise _Unknown(f"{name} has a norm of another width")
            weight = weight * factor[:, None, None, None]
            bias = (bias - mean) * factor + shift
            out = users[0].output[0]
        state[f"{name}.weight"] = weight.astype(np.float32)
        state[f"{name}.bias"] = bias.astype(np.float32)
        return out

    def _norm(self, x: str, name: str, state: dict[str, Array]) -> str:
        """A BatchNorm with no convolution in front, kept; PyTorch's eps takes the place of its."""
        node = self._node(x, "BatchNormalization")
        scale, shift, mean, var = self._statistics(node, name)
        state |= {f"{name}.weight": scale, f"{name}.bias": shift, f"{name}.running_mean": mean}
        state[f"{name}.running_var"] = (var + (self._eps(node) - 1e-5)).astype(np.float32)
        state[f"{name}.num_batches_tracked"] = np.array(0)
        return node.output[0]

    def _statistics(self, node: Any, name: str) -> tuple[Array, Array, Array, Array]:
        if len(node.input) != 5:
            raise _Unknown(f"{name} is no BatchNorm with stored statistics")
        a, b, c, d = (self._array(i).reshape(-1) for i in node.input[1:])
        if not len(a) == len(b) == len(c) == len(d):
            raise _Unknown(f"{name} is a BatchNorm of no width")
        return a, b, c, d

    def _eps(self, node: Any) -> float:
        return float(next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5))

    def _prelu(self, x: str, name: str, state: dict[str, Array]) -> str:
        node = self._node(x, "PRelu")
        state[f"{name}.weight"] = self._array(node.input[1]).reshape(-1)
        return node.output[0]

    def _flat(self, x: str) -> str:
        for _ in range(4):
            users = self.users.get(x, ())
            if len(users) == 1 and users[0].op_type in (*_SAME, "Flatten", "Reshape"):
                x = users[0].output[0]
                if users[0].op_type in ("Flatten", "Reshape"):
                    return x
        raise _Unknown("it does not flatten its features")

    def _linear(self, x: str, state: dict[str, Array]) -> str:
        node = self._node(x, "Gemm")
        given = {a.name: a for a in node.attribute}
        if any(abs(given[key].f - 1) > 1e-6 for key in ("alpha", "beta") if key in given):
            raise _Unknown("its linear layer is scaled")
        weight = self._array(node.input[1])
        if weight.ndim != 2 or len(node.input) != 3:
            raise _Unknown("its linear layer is another one")
        transposed = "transB" in given and given["transB"].i == 1
        state["fc.weight"] = np.ascontiguousarray(weight if transposed else weight.T)
        state["fc.bias"] = self._array(node.input[2]).reshape(-1)
        return node.output[0]
