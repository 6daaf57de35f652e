"""ONNX graphs of recognisers become networks; other graphs are refused with what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import facke_core
from facke_cli.main import main
from facke_core.convert.run import convert
from facke_core.errors import UnavailableError, VerificationError, WeightsError
from facke_core.identity.insightface import InsightFaceResNet

onnx = pytest.importorskip("onnx")
pytestmark = pytest.mark.filterwarnings("ignore::facke_core.errors.LicenseWarning")


class Graph:
    """An IResNet as insightface exports it: BatchNorm behind convolutions folded away, or not."""

    def __init__(self, layers: tuple[int, ...], *, folded: bool, base: int = 64) -> None:
        self.rng, self.folded = np.random.default_rng(0), folded
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        x = self.prelu(self.conv("input.1", base, 3, 3, 1), base)
        width = base
        for i, count in enumerate(layers):
            for j in range(count):
                wide, stride = base * 2**i, 1 if j else 2
                y = self.conv(self.norm(x, width), wide, width, 3, 1)
                y = self.conv(self.prelu(y, wide), wide, wide, 3, stride)
                shortcut = self.conv(x, wide, width, 1, 2) if stride == 2 else x
                x, width = self.node("Add", y, shortcut), wide
        x = self.node("Flatten", self.node("Dropout", self.norm(x, width)), axis=1)
        fc = (self.array(512, 49 * width, scale=0.006), self.array(512))
        x = self.norm(self.node("Gemm", x, *fc, transB=1, alpha=1.0, beta=1.0), 512)
        self.nodes[-1].output[0] = "683"
        picture = onnx.helper.make_tensor_value_info("input.1", 1, ["N", 3, 112, 112])
        vector = onnx.helper.make_tensor_value_info("683", 1, ["N", 512])
        graph = onnx.helper.make_graph(self.nodes, "torch-jit-export", [picture], [vector])
        graph.initializer.extend(self.weights)
        opset = [onnx.helper.make_opsetid("", 13)]
        self.model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], **attributes))
        return name

    def array(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        name = f"w{len(self.weights)}"
        values = (shift + scale * self.rng.standard_normal(shape)).astype(np.float32)
        self.weights.append(onnx.numpy_helper.from_array(values, name))
        return name

    def norm(self, x: str, width: int) -> str:
        scale, shift = self.array(width, scale=0.1, shift=1), self.array(width, scale=0.1)
        mean, var = self.array(width, scale=0.1), self.array(width, scale=0.05, shift=1)
        return self.node("BatchNormalization", x, scale, shift, mean, var, epsilon=2e-5)

    def prelu(self, x: str, width: int) -> str:
        return self.node("PRelu", x, self.array(width, 1, 1, scale=0.05, shift=0.25))

    def conv(self, x: str, out: int, width: int, size: int, stride: int) -> str:
        weight = self.array(out, width, size, size, scale=(width * size**2) ** -0.5)
        bias = [self.array(out, scale=0.1)] if self.folded else []
        settings = {
            "kernel_shape": [size] * 2,
            "strides": [stride] * 2,
            "pads": [size // 2] * 4,
            "dilations": [1, 1],
            "group": 1,
        }
        x = self.node("Conv", x, weight, *bias, **settings)
        return x if self.folded else self.norm(x, out)


@pytest.mark.parametrize("folded", [True, False])
def test_a_recogniser_computes_what_its_graph_does(folded: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = Graph((1, 2, 1, 1), folded=folded).model
    file = tmp_path / "w600k_small.onnx"
    file.write_bytes(model.SerializeToString())
    report = convert(file, tmp_path / "out")
    assert report.kind == "insightface"
    assert report.license == "LicenseRef-insightface-non-commercial"
    assert report.encoder is not None
    encoder: Any = facke_core.load_encoder(report.encoder)
    assert isinstance(encoder.network, InsightFaceResNet)
    crop = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input.1": ((crop - 0.5) / 0.5).numpy()})
    with torch.inference_mode():
        actual = encoder.network(encoder.prepare(crop))
    wanted = torch.from_numpy(expected)
    assert (actual - wanted).norm() / wanted.norm() < 1e-5


def _changed(change: str) -> Any:
    model = Graph((1, 1, 1, 1), folded=True, base=2).model
    nodes = model.graph.node
    if change == "relu":
        next(node for node in nodes if node.op_type == "PRelu").op_type = "Relu"
    elif change == "groups":
        conv = next(node for node in nodes if node.op_type == "Conv")
        next(a for a in conv.attribute if a.name == "group").i = 64
    elif change == "stages":
        model = Graph((1, 1), folded=True, base=2).model
    elif change == "two inputs":
        extra = onnx.helper.make_tensor_value_info("source", 1, [1, 512])
        model.graph.input.append(extra)
    elif change == "other file":
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../secret")
    elif change == "circle":
        model = Graph((1, 2, 1, 1), folded=True, base=2).model
        adds = [node for node in model.graph.node if node.op_type == "Add"]
        adds[2].output[0] = adds[1].output[0]
    elif change == "no weights":
        del next(node for node in nodes if node.op_type == "Conv").input[1:]
    elif change == "more behind":
        nodes.append(onnx.helper.make_node("Relu", ["683"], ["end"]))
        model.graph.output[0].name = "end"
    return model


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("relu", "where PRelu belongs, it has Relu"),
        ("groups", "conv1 is another convolution .group."),
        ("stages", "lacks a stage"),
        ("two inputs", "it takes 2 inputs.*source"),
        ("other file", "lies in another file"),
        ("circle", "facke has no network for"),
        ("no weights", "a node of it lacks something"),
        ("more behind", "it goes on behind the embedding"),
    ],
)
def test_other_graphs_are_refused_with_what_was_found(
    change: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "inswapper_128.onnx").write_bytes(_changed(change).SerializeToString())
    with pytest.raises(WeightsError, match=why):
        convert(tmp_path / "inswapper_128.onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _varint(value: int) -> bytes:
    return bytes([value % 128 | 128]) + _varint(value // 128) if value > 127 else bytes([value])


def test_a_file_that_is_no_graph_and_a_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.onnx"
    nodes = b"\x0a\x00" * 2**21  # 4 MB of empty nodes, which would become 400
    bomb = b"\x3a" + _varint(len(nodes)) + nodes
    for data in (b"", b"<html>", b"\xff" * 100, bomb):
        file.write_bytes(data)
        with pytest.raises(VerificationError, match="not an ONNX file"):
            convert(file, tmp_path / "out")
        assert main(["weights", "convert", str(file), "-o", str(tmp_path / "out")]) == 3
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(UnavailableError, match=r"facke-core\[onnx\]"):
        convert(file, tmp_path / "out")
