"""Convolutions of an OpenVINO model in other forms, which oneDNN computes faster on x86.

They give the same results but for rounding, and change a model of known shapes in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facke_core.environment import require

__all__: list[str] = []

FEW = 4
"""Up to so many outputs: processors compute 16 at a time."""
MIN_CHANNELS = 512
"""Of fewer the sums of :func:`winograd` and :func:`after_doubling` cost more than the products that
they save."""
CHANNELS_PER_LINE = 16
"""So many for every row and column there must be too, for :func:`after_doubling`."""
MAX_TILES = 400
"""For more oneDNN does not use the matrix unit (AMX) in products of this kind."""
LOW = "facke_low_"
"""How the names of layers begin that may round their results: they lead to the products."""
EXACT = "facke_exact_"
"""How the names of layers begin that must not: sums of nine products with different signs."""
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


def quantised(model: Any) -> bool:
    """Whether parts of it are in 8 bits. OpenVINO computes in them only where it finds the steps as
    they were written: such a model is to stay as it is."""
    return any(one.get_type_name() == "FakeQuantize" for one in model.get_ordered_ops())


def fold(model: Any) -> None:
    """Compute what known shapes and weights determine: the others look for constants."""
    passes = require("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)


def four_at_once(model: Any) -> int:
    """Let convolutions with up to :data:`FEW` outputs, such as that to RGB, compute 2 x 2 pixels as
    channels of one pixel, by a kernel that is one row and column larger; return how many."""
    op = require("openvino").opset13
    chosen = [
        one
        for one in _convolutions(model)
        if one.get_output_shape(0)[1] <= FEW and not any(n % 2 for n in one.get_output_shape(0)[2:])
    ]
    for node in chosen:
        weights, settings = node.input_value(1).get_node().data, node.get_attributes()
        out, channels, height, width = weights.shape
        wide = np.zeros((2, 2, out, channels, height + 1, width + 1), np.float32)
        for i, j in np.ndindex(2, 2):
            wide[i, j, ..., i : i + height, j : j + width] = weights
        wide = wide.reshape(4 * out, *wide.shape[3:])
        pads = settings["pads_begin"], settings["pads_end"]
        four = op.convolution(node.input_value(0), op.constant(wide), [2, 2], *pads, [1, 1])
        node.output(0).replace(op.depth_to_space(four, "blocks_first", 2).output(0))
    return len(chosen)


def after_doubling(model: Any, *, spared: int) -> int:
    """Compute 3 x 3 convolutions of pictures just doubled bilinearly with 4 times fewer products,
    where that pays; return how many.

    Every row of the doubled picture, and of its padding, is a sum of rows of the small one x. With
    D_k for the sums that row k of the kernel g meets, and E_l for those of columns, known matrices
    of 0, 1/4, 3/4 and 1, the result is

        Y = sum_kl g_kl (D_k x E_l^T) = sum_l (sum_k D_k (g_kl x)) E_l^T

    where the products g_kl x, over all channels, are of the small picture.

    Args:
        model: an ``openvino.Model`` of known shapes.
        spared: how many convolutions at the beginning stay as they are.
    """
    op = require("openvino").opset13
    chosen = [one for one in _convolutions(model, spared) if _pays_after_doubling(one)]
    for node in chosen:
        weights = node.input_value(1).get_node().data
        doubled, lines = _lines(node)
        x = doubled.get_node().input_value(0)
        (height, width), (rows, columns) = x.get_shape()[2:], node.get_output_shape(0)[2:]
        out, channels = weights.shape[:2]
        D, E = (_met(line, size) for line, size in zip(lines, (height, width), strict=True))
        g = _constant(weights.transpose(3, 2, 0, 1).reshape(9 * out, channels))
        y = op.matmul(_by_pixels(x), g, False, True)  # (h, w) x (l, k, out)
        y = _reshaped(_transposed(_reshaped(y, -1, 9, out), 1, 0, 2), 3, 3 * height, -1)
        y = op.matmul(_constant([D] * 3), y, False, False)  # l x rows x (w, out)
        y = _reshaped(_transposed(y, 1, 0, 2), rows, 3 * width, out)
        y = op.matmul(_constant([E] * rows), y, False, False)  # rows x columns x out
        y = _transposed(_reshaped(y, 1, rows, columns, out), 0, 3, 1, 2)
        node.output(0).replace(y.output(0))
    return len(chosen)


def winograd(model: Any, *, spared: int) -> int:
    """Compute 3 x 3 convolutions with 2.25 times fewer products, where that pays; return how many.

    F(2x2, 3x3) of Lavin & Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016
    (arXiv:1509.09308), equation 8: a tile d of 4 x 4 pixels gives the 2 x 2 pixels

        Y = A^T [(G g G^T) * (B^T d B)] A

    of its convolution with the kernel g. Over all tiles and channels the product * is 16 products
    of matrices; B and A add and subtract only.

    Args:
        model: an ``openvino.Model`` of known shapes.
        spared: how many convolutions at the beginning stay as they are.
    """
    chosen = [one for one in _convolutions(model, spared) if _pays(one)]
    for node in chosen:
        weights = node.input_value(1).get_node().data
        x, lines = _lines(node)
        biased, bias = _bias(node)
        made = _by_tiles(x, weights, bias, lines, node.get_output_shape(0)[2:])
        biased.output(0).replace(made.output(0))
    return len(chosen)


def round_weights(model: Any, *, spared: int) -> None:
    """Round the weights of convolutions to bfloat16 so that every kernel keeps its sum.

    What rounding takes from one place of a kernel is added to the next before that is rounded.
    Features are smooth: neighbours are multiplied by nearly the same number, and their errors
    cancel. The rounding of the processor then changes nothing.

    Args:
        spared: how many convolutions at the beginning stay as they are.
    """
    op = require("openvino").opset13
    found = [one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution"]
    for node in found[spared:]:
        constant = node.input_value(1).get_node()
        if constant.get_type_name() == "Constant":
            weights = torch.tensor(constant.data).flatten(2)
            rounded, rest = torch.empty_like(weights), torch.zeros_like(weights[..., 0])
            for k in range(weights.shape[2]):
                rest = rest + weights[..., k]
                rounded[..., k] = rest.bfloat16().float()
                rest = rest - rounded[..., k]
            values = rounded.reshape(constant.data.shape).numpy()
            node.input(1).replace_source_output(op.constant(values).output(0))


def _convolutions(model: Any, spared: int = 0) -> list[Any]:
    """Those of known weights without a stride or dilation."""
    found = [one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution"]
    return [
        one
        for one in found[spared:]
        if one.input_value(1).get_node().get_type_name() == "Constant"
        and list(one.get_attributes()["strides"]) == [1, 1]
        and list(one.get_attributes()["dilations"]) == [1, 1]
    ]


def _pays(node: Any) -> bool:
    out, channels, *kernel = node.input_value(1).get_shape()
    batch, _, height, width = node.get_output_shape(0)
    tiles = -(-height // 2) * -(-width // 2)
    large = min(out, channels) >= MIN_CHANNELS
    return kernel == [3, 3] and large and batch == 1 and tiles <= MAX_TILES


def _pays_after_doubling(node: Any) -> bool:
    _, channels, *kernel = node.input_value(1).get_shape()
    if kernel != [3, 3]:
        return False
    x = _lines(node)[0].get_node()
    if x.get_type_name() != "Interpolate":
        return False
    how, (batch, _, *small) = x.get_attributes(), x.get_input_shape(0)
    bilinear = how["mode"] == "linear_onnx" and not how["antialias"]
    halves = how["coordinate_transformation_mode"] in ("half_pixel", "pytorch_half_pixel")
    doubles = list(x.get_output_shape(0)[2:]) == [2 * size for size in small]
    large = channels >= max(MIN_CHANNELS, CHANNELS_PER_LINE * max(small))
    return bilinear and halves and doubles and large and batch == 1


def _lines(node: Any) -> tuple[Any, list[NDArray[Any]]]:
    """The input before any padding; the numbers of its rows, and of its columns, as they lie after
    it, -1 for zeros."""
    x, settings = node.input_value(0), node.get_attributes()
    zeros = list(zip(settings["pads_begin"], settings["pads_end"], strict=True))
    before, reflected = x.get_node(), [(0, 0), (0, 0)]
    if before.get_type_name() == "Pad" and before.get_attributes()["pad_mode"] == "reflect":
        begin, end = (before.input_value(i).get_node().data.tolist() for i in (1, 2))
        x, reflected = before.input_value(0), list(zip(begin[2:], end[2:], strict=True))
    lines = [
        np.pad(np.arange(size), around, mode="reflect")
        for size, around in zip(x.get_shape()[2:], reflected, strict=True)
    ]
    pairs = zip(lines, zeros, strict=True)
    return x, [np.pad(one, around, constant_values=-1) for one, around in pairs]


def _met(line: NDArray[Any], size: int) -> NDArray[Any]:
    """D_0, D_1 and D_2 of :func:`after_doubling` side by side, for lines of a doubled picture."""
    i = np.arange(2 * size)
    doubling = np.zeros((2 * size + 1, size))  # with a row of zeros at the end
    np.add.at(doubling, (i, i // 2), 0.75)
    np.add.at(doubling, (i, np.clip(i // 2 + i % 2 * 2 - 1, 0, size - 1)), 0.25)
    return np.concatenate([doubling[line[k : len(line) - 2 + k]] for k in range(3)], 1)


def _bias(node: Any) -> tuple[Any, NDArray[Any]]:
    """The node that adds a bias to a convolution, and the bias; or the convolution, and zero."""
    channels = node.get_output_shape(0)[1]
    after = [one.get_node() for one in node.output(0).get_target_inputs()]
    if len(after) == 1 and after[0].get_type_name() == "Add":
        for value in after[0].input_values():
            constant = value.get_node().get_type_name() == "Constant"
            if constant and list(value.get_shape()) == [1, channels, 1, 1]:
                return after[0], value.get_node().data.reshape(1, channels)
    return node, np.zeros((1, channels))


def _constant(values: Any, dtype: Any = np.float32) -> Any:
    return require("openvino").opset13.constant(np.array(values, dtype=dtype, order="C"))


def _reshaped(of: Any, *shape: int) -> Any:
    op = require("openvino").opset13
    return op.reshape(of, _constant(shape, np.int64), special_zero=False)


def _transposed(of: Any, *order: int) -> Any:
    return require("openvino").opset13.transpose(of, _constant(order, np.int64))


def _named(node: Any, how: str) -> Any:
    node.set_friendly_name(how + node.get_friendly_name())
    return node


def _by_pixels(x: Any) -> Any:
    """(1, C, H, W) as (H * W, C), on the way to a product."""
    channels = x.get_shape()[1]
    # to OpenVINO this is a picture of C x 1 pixels: that order it transposes fastest
    table = _named(_reshaped(x, 1, channels, 1, -1), LOW)
    table = _named(_transposed(table, 0, 3, 1, 2), LOW)
    return _named(_reshaped(table, -1, channels), LOW)


def _by_tiles(
    x: Any, weights: NDArray[Any], bias: NDArray[Any], lines: list[NDArray[Any]], size: list[int]
) -> Any:
    """Nodes for (1, C, H, W) in, (1, O, *size) out."""
    op = require("openvino").opset13
    out, channels = weights.shape[:2]
    height, width = x.get_shape()[2:]
    even = [np.pad(one, (0, len(one) % 2), constant_values=-1) for one in lines]
    pixels = even[0][:, None] * width + even[1]
    outside = (even[0] < 0)[:, None] | (even[1] < 0)
    pixels[outside] = height * width  # one row of zeros more
    down, across = pixels.shape[0] // 2 - 1, pixels.shape[1] // 2 - 1
    tiles = down * across

    def rows(of: Any, numbers: NDArray[Any]) -> Any:
        return op.gather(of, _constant(numbers.ravel(), np.int32), _constant(0, np.int32))

    def total(signs: NDArray[Any], parts: list[Any], how: str) -> Any:
        """The sum of parts with these signs, of which one at least is +."""
        first, *others = sorted(np.flatnonzero(signs), key=lambda k: -signs[k])
        found = parts[first]
        for k in others:
            found = _named((op.add if signs[k] > 0 else op.subtract)(found, parts[k]), how)
        return found

    # a row per pixel, of all its channels; d[4 i + j]: pixel (i, j) of every tile
    table = _by_pixels(x)
    if outside.any():
        table = _named(op.concat([table, _constant(np.zeros((1, channels)))], 0), LOW)
    places = [pixels[i : i + 2 * down : 2, j : j + 2 * across : 2] for i, j in np.ndindex(4, 4)]
    d = _named(rows(table, np.stack(places)), LOW)
    d = _named(op.split(d, _constant(0, np.int64), 16), LOW).outputs()
    v = [total(signs, d, LOW) for signs in np.kron(B_T, B_T)]
    v = [_named(_reshaped(one, 1, tiles, channels), LOW) for one in v]
    u = np.kron(G, G) @ weights.reshape(-1, 9).astype(np.float64).T
    u = _constant(u.reshape(16, out, channels))
    m = _named(op.matmul(_named(op.concat(v, 0), LOW), u, False, True), LOW)
    # products are added up in float32, and with this after them they come out so
    m = _named(op.clamp(m, -1e30, 1e30), EXACT)
    m = _named(op.split(m, _constant(0, np.int64), 16), EXACT).outputs()
    # y[2 i + j]: pixel (i, j) of the results of every tile
    y = [total(signs, m, EXACT) for signs in np.kron(A_T, A_T)]
    y = op.concat([_named(op.add(one, _constant(bias)), EXACT) for one in y], 0)
    i, j = np.indices(size)
    y = rows(_reshaped(y, 4 * tiles, out), (2 * (i % 2) + j % 2) * tiles + i // 2 * across + j // 2)
    return _transposed(_reshaped(y, 1, *size, out), 0, 3, 1, 2)
