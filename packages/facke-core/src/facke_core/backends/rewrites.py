"""Rewrites put convolutions of an OpenVINO model in a form that oneDNN computes faster on x86.

The results are the same but for rounding; a model of known shapes is changed in place. What it
gains, and what was tried besides: docs/adr/0004.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facke_core.environment import require

__all__: list[str] = []

MIN_CHANNELS = 512
"""Least number of channels: for fewer the sums cost more than the products that they save."""
MAX_TILES = 400
"""Largest number of tiles: for more oneDNN does not use the matrix unit (AMX) in such products."""
LOW = "facke_low_"
"""Beginning of the names of layers that may round their results: they lead to the products."""
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def winograd(model: Any) -> int:
    """Compute 3 x 3 convolutions with 2.25 times fewer products, where that pays; return how many.

    F(2x2, 3x3) of Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016
    (arXiv:1509.09308), equation 8: a tile d of 4 x 4 pixels gives the 2 x 2 pixels

        Y = A^T [(G g G^T) * (B^T d B)] A

    of its convolution with the kernel g. Over all tiles and channels the product * is 16 products
    of matrices; B and A add and subtract only.

    Args:
        model: an ``openvino.Model`` of known shapes.
    """
    chosen = [node for node in model.get_ordered_ops() if _pays(node)]
    for node in chosen:
        weights = node.input_value(1).get_node().data
        made = _by_tiles(*_lines(node), weights, node.get_output_shape(0)[2:])
        node.output(0).replace(made.output(0))
    return len(chosen)


def _pays(node: Any) -> bool:
    if node.get_type_name() != "Convolution" or not _constants(node, 1):
        return False
    settings = node.get_attributes()
    if {*settings["strides"], *settings["dilations"]} != {1}:
        return False
    out, channels, *kernel = node.input_value(1).get_shape()
    batch, _, height, width = node.get_output_shape(0)
    tiles = -(-height // 2) * -(-width // 2)
    large = min(out, channels) >= MIN_CHANNELS
    return kernel == [3, 3] and large and batch == 1 and tiles <= MAX_TILES


def _constants(node: Any, *inputs: int) -> bool:
    return all(node.input_value(i).get_node().get_type_name() == "Constant" for i in inputs)


def _lines(node: Any) -> tuple[Any, list[NDArray[Any]]]:
    """Return the input before any padding; the numbers of its rows, and of its columns, as they lie
    after it, -1 for zeros."""
    x, settings = node.input_value(0), node.get_attributes()
    zeros = list(zip(settings["pads_begin"], settings["pads_end"], strict=True))
    before, reflected = x.get_node(), [(0, 0), (0, 0)]
    padded = before.get_type_name() == "Pad" and before.get_attributes()["pad_mode"] == "reflect"
    if padded and _constants(before, 1, 2):
        begin, end = (before.input_value(i).get_node().data.tolist() for i in (1, 2))
        x, reflected = before.input_value(0), list(zip(begin[2:], end[2:], strict=True))
    lines = [
        np.pad(np.arange(size), around, mode="reflect")
        for size, around in zip(x.get_shape()[2:], reflected, strict=True)
    ]
    pairs = zip(lines, zeros, strict=True)
    return x, [np.pad(line, around, constant_values=-1) for line, around in pairs]


def _constant(values: Any, dtype: Any = np.float32) -> Any:
    return require("openvino").opset13.constant(np.array(values, dtype=dtype, order="C"))


def _reshaped(of: Any, *shape: int) -> Any:
    op = require("openvino").opset13
    return op.reshape(of, _constant(shape, np.int64), special_zero=False)


def _transposed(of: Any, *order: int) -> Any:
    return require("openvino").opset13.transpose(of, _constant(order, np.int64))


def _low(node: Any) -> Any:
    node.set_friendly_name(LOW + node.get_friendly_name())
    return node


def _by_tiles(x: Any, lines: list[NDArray[Any]], weights: NDArray[Any], size: list[int]) -> Any:
    """Make the nodes that compute (1, O, *size) from ``x``, (1, C, H, W)."""
    op = require("openvino").opset13
    out, channels = weights.shape[:2]
    height, width = x.get_shape()[2:]
    even = [np.pad(line, (0, len(line) % 2), constant_values=-1) for line in lines]
    pixels = even[0][:, None] * width + even[1]
    outside = (even[0] < 0)[:, None] | (even[1] < 0)
    pixels[outside] = height * width  # one row of zeros more
    down, across = pixels.shape[0] // 2 - 1, pixels.shape[1] // 2 - 1
    tiles = down * across

    def rows(of: Any, numbers: NDArray[Any]) -> Any:
        return op.gather(of, _constant(numbers.ravel(), np.int32), _constant(0, np.int32))

    def total(signs: NDArray[Any], parts: list[Any], named: Any = lambda node: node) -> Any:
        """Add parts with these signs, of which one at least is +."""
        first, *others = sorted(np.flatnonzero(signs), key=lambda k: -signs[k])
        value = parts[first]
        for k in others:
            value = named((op.add if signs[k] > 0 else op.subtract)(value, parts[k]))
        return value

    # a row per pixel, of all its channels. To OpenVINO the picture has C x 1 pixels here: that
    # order it transposes fastest
    table = _low(_reshaped(x, 1, channels, 1, -1))
    table = _low(_reshaped(_low(_transposed(table, 0, 3, 1, 2)), -1, channels))
    if outside.any():
        table = _low(op.concat([table, _constant(np.zeros((1, channels)))], 0))
    # d[4 i + j]: pixel (i, j) of every tile
    places = [pixels[i : i + 2 * down : 2, j : j + 2 * across : 2] for i, j in np.ndindex(4, 4)]
    d = _low(rows(table, np.stack(places)))
    d = _low(op.split(d, _constant(0, np.int64), 16)).outputs()
    v = [total(signs, d, _low) for signs in np.kron(B_T, B_T)]
    v = [_low(_reshaped(pixel, 1, tiles, channels)) for pixel in v]
    u = np.kron(G, G) @ weights.reshape(-1, 9).astype(np.float64).T
    u = _constant(u.reshape(16, out, channels))
    m = op.matmul(_low(op.concat(v, 0)), u, False, True)
    # products are added up in float32, and with this after them they come out so
    m = op.split(op.clamp(m, -1e30, 1e30), _constant(0, np.int64), 16).outputs()
    # y[2 i + j]: pixel (i, j) of the results of every tile
    y = op.concat([total(signs, m) for signs in np.kron(A_T, A_T)], 0)
    i, j = np.indices(size)
    y = rows(_reshaped(y, 4 * tiles, out), (2 * (i % 2) + j % 2) * tiles + i // 2 * across + j // 2)
    return _transposed(_reshaped(y, 1, *size, out), 0, 3, 1, 2)
