"""Networks as OpenVINO writes them: by its package, and as its Model Optimizer did in 2019."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import torch
from torch import Tensor

from facke_core.identity.operations import Operation, compute

SLIDING = {
    "strides": "1, 1",
    "dilations": "1, 1",
    "pads_begin": "1, 1",
    "pads_end": "1, 1",
    "auto_pad": "explicit",
}


def small() -> tuple[list[Operation], dict[str, Tensor]]:
    """A network of all known operations, for pictures (3, 16, 12), with uneven settings."""
    rng = torch.Generator().manual_seed(0)

    def constant(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng) * 0.5

    constants = {
        "scale": constant(1, 3, 1, 1),
        "shift": constant(1, 3, 1, 1),
        "first": constant(8, 3, 3, 3),
        "slope": constant(1).abs(),
        "grouped": constant(4, 2, 2, 3, 3),
        "slopes": constant(8).abs(),
        "squeeze": constant(2, 8, 1, 1),
        "bias": constant(1, 2, 1, 1),
        "excite": constant(8, 2, 1, 1),
        "last": constant(5, 8, 4, 3),
    }
    uneven = {**SLIDING, "strides": "2, 1", "pads_begin": "0, 2", "pads_end": "1, 0"}
    none = {**SLIDING, "pads_begin": "0, 0", "pads_end": "0, 0"}
    pool = {
        "kernel": "8, 6",
        "strides": "8, 6",
        "pads_begin": "0, 0",
        "pads_end": "0, 0",
        "exclude-pad": "true",
        "auto_pad": "explicit",
        "rounding_type": "floor",
    }
    numpy = {"auto_broadcast": "numpy"}
    operations = [
        Operation("Parameter", "picture", ()),
        Operation("Multiply", "a", ("picture", "scale"), numpy),
        Operation("Add", "b", ("a", "shift"), numpy),
        Operation("Convolution", "c", ("b", "first"), uneven),
        Operation("PReLU", "d", ("c", "slope")),
        Operation("GroupConvolution", "e", ("d", "grouped"), {**SLIDING, "strides": "1, 2"}),
        Operation("PReLU", "f", ("e", "slopes")),
        Operation("AvgPool", "g", ("f",), pool),
        Operation("Convolution", "h", ("g", "squeeze"), none),
        Operation("Add", "i", ("h", "bias"), numpy),
        Operation("Convolution", "j", ("i", "excite"), none),
        Operation("Sigmoid", "k", ("j",)),
        Operation("Multiply", "l", ("f", "k"), numpy),
        Operation("Add", "m", ("f", "l"), numpy),
        Operation("Convolution", "n", ("m", "last"), {**none, "dilations": "2, 2"}),
        Operation("Result", "o", ("n",)),
    ]
    return operations, constants


def openvino_model(
    operations: Sequence[Operation], constants: Mapping[str, Tensor], size: Sequence[int]
) -> Any:
    """The same network as a model of the package ``openvino``."""
    openvino, opset1 = import_module("openvino"), import_module("openvino.opset1")
    nodes: dict[str, Any] = {
        name: opset1.constant(tensor.float().numpy()) for name, tensor in constants.items()
    }
    picture = result = None

    def pair(settings: Mapping[str, str], key: str) -> list[int]:
        return [int(number) for number in settings[key].split(",")]

    for kind, name, inputs, settings in operations:
        given = [nodes[one] for one in inputs]
        if kind == "Parameter":
            node = picture = opset1.parameter([1, *size], np.float32)
        elif kind == "Result":
            node = result = opset1.result(given[0])
        elif kind in ("Convolution", "GroupConvolution"):
            make = opset1.convolution if kind == "Convolution" else opset1.group_convolution
            keys = ("strides", "pads_begin", "pads_end", "dilations")
            node = make(*given, *(pair(settings, key) for key in keys))
        elif kind == "AvgPool":
            keys = ("strides", "pads_begin", "pads_end", "kernel")
            node = opset1.avg_pool(given[0], *(pair(settings, key) for key in keys), True)
        else:
            make = {
                "Add": opset1.add,
                "Multiply": opset1.multiply,
                "Sigmoid": opset1.sigmoid,
                "PReLU": opset1.prelu,
            }[kind]
            node = make(*given)
        nodes[name] = node
    return openvino.Model([result], [picture], "network")


def saved(model: Any, folder: Path) -> tuple[bytes, bytes]:
    """What OpenVINO writes of a model: the XML and the numbers."""
    openvino = import_module("openvino")
    folder.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / "network.xml", compress_to_fp16=False)
    return (folder / "network.xml").read_bytes(), (folder / "network.bin").read_bytes()


def old_ir(
    operations: Sequence[Operation],
    constants: Mapping[str, Tensor],
    sizes: Mapping[str, Sequence[int]],
) -> tuple[bytes, bytes]:
    """The same network as the Model Optimizer of 2019 wrote it: IR version 10.

    Settings have no spaces, convolutions an ``output_padding``, sums and products no settings, the
    output of a constant is its port 1, and a port of an input says no precision.
    """
    numbers, lines, edges = bytearray(), list[str](), list[str]()
    layers: dict[str, tuple[int, int]] = {}
    """Name -> layer and the port of its output."""

    def port(number: int, size: Sequence[int], precision: str = "") -> str:
        dims = "".join(f"\n\t\t\t\t\t<dim>{dim}</dim>" for dim in size)
        return f'\t\t\t\t<port id="{number}"{precision}>{dims}\n\t\t\t\t</port>'

    def layer(kind: str, name: str, settings: Mapping[str, str], inputs: Sequence[str]) -> None:
        number, out = len(layers), 1 if kind == "Const" else len(inputs)
        layers[name] = number, out
        lines.append(
            f'\t\t<layer id="{number}" name={quoteattr(name)} type="{kind}" version="opset1">'
        )
        if settings:
            said = " ".join(f'{key}="{value}"' for key, value in sorted(settings.items()))
            lines.append(f"\t\t\t<data {said}/>")
        if inputs:
            lines.append("\t\t\t<input>")
            for i, one in enumerate(inputs):
                lines.append(port(i, known[one]))
                giver, gives = layers[one]
                edges.append(
                    f'\t\t<edge from-layer="{giver}" from-port="{gives}" to-layer="{number}" '
                    f'to-port="{i}"/>'
                )
            lines.append("\t\t\t</input>")
        if kind != "Result":
            lines.append("\t\t\t<output>")
            lines.append(port(out, known[name], ' precision="FP32"'))
            lines.append("\t\t\t</output>")
        lines.append("\t\t</layer>")

    known = {**{name: tuple(tensor.shape) for name, tensor in constants.items()}, **sizes}
    for kind, name, inputs, settings in operations:
        for one in inputs:
            if one in constants and one not in layers:
                data = constants[one].float().numpy().astype("<f4").tobytes()
                about = {
                    "element_type": "f32",
                    "offset": str(len(numbers)),
                    "shape": ",".join(map(str, known[one])),
                    "size": str(len(data)),
                }
                numbers += data
                layer("Const", one, about, ())
        written = {key: value.replace(" ", "") for key, value in settings.items()}
        written.pop("auto_broadcast", None)
        written.pop("auto_pad", None)
        if kind == "Parameter":
            written = {"element_type": "f32", "shape": ",".join(map(str, known[name]))}
        elif "Convolution" in kind:
            written["output_padding"] = "0,0"
        layer(kind, name, written, inputs)
    text = "\n".join(
        [
            '<?xml version="1.0" ?>',
            '<net name="network" version="10">',
            "\t<layers>",
            *lines,
            "\t</layers>",
            "\t<edges>",
            *edges,
            "\t</edges>",
            '\t<meta_data>\n\t\t<MO_version value=""/>\n\t\t<cli_parameters>',
            '\t\t\t<data_type value="FP32"/>\n\t\t</cli_parameters>\n\t</meta_data>',
            "</net>\n",
        ]
    )
    return text.encode(), bytes(numbers)


def judge_ir() -> tuple[bytes, bytes]:
    """The judge of the benchmarks as its publisher's files are: ``benchmarks`` is on the path."""
    import reid

    network = reid.network()
    sizes, picture = dict[str, Sequence[int]](), torch.zeros(1, 3, 128, 128)
    known = network.constants()
    for operation in network.operations:
        known[operation.name] = compute(operation, known, picture)
        sizes[operation.name] = known[operation.name].shape
    return old_ir(network.operations, network.constants(), sizes)
