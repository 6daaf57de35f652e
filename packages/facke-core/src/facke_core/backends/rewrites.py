"""Convolutions of an OpenVINO model in other forms, which oneDNN computes faster on x86.

They give the same results but for rounding, and change a model of known shapes in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from facke_core.backends.extras import require

__all__ = ["EXACT", "LOW", "fold", "four_at_once", "round_weights", "winograd"]

FEW = 4
"""Up to so many outputs: processors compute 16 at a time."""
MIN_CHANNELS = 512
"""Of fewer the sums of :func:`winograd` cost more than the products that they save."""
MAX_TILES = 400
"""For more oneDNN does not use the matrix unit (AMX) in products of this kind."""
LOW = "winograd_low_"
"""How the names of layers begin that may round their results: they lead to the products."""
EXACT = "winograd_exact_"
"""How the names of layers begin that must not: sums of nine products with different signs."""
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])


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
        x, pixels, zeros = _padded(node)
        biased, bias = _bias(node)
        made = _by_tiles(x, weights, bias, pixels, node.get_output_shape(0)[2:], zeros=zeros)
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


def _padded(node: Any) -> tuple[Any, NDArray[Any], bool]:
    """The input before any padding; the numbers of its pixels as they lie after it, where that
    after the last means zero; and whether there are such zeros."""
    x, settings = node.input_value(0), node.get_attributes()
    around = list(zip(settings["pads_begin"], settings["pads_end"], strict=True))
    before, reflected = x.get_node(), [(0, 0), (0, 0)]
    if before.get_type_name() == "Pad" and before.get_attributes()["pad_mode"] == "reflect":
        begin, end = (before.input_value(i).get_node().data.tolist() for i in (1, 2))
        x, reflected = before.input_value(0), list(zip(begin[2:], end[2:], strict=True))
    height, width = x.get_shape()[2:]
    zero = height * width
    pixels = np.pad(np.arange(zero).reshape(height, width), reflected, mode="reflect")
    pixels = np.pad(pixels, around, constant_values=zero)
    pixels = np.pad(pixels, [(0, size % 2) for size in pixels.shape], constant_values=zero)
    return x, pixels, bool((pixels == zero).any())


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


def _by_tiles(
    x: Any,
    weights: NDArray[Any],
    bias: NDArray[Any],
    pixels: NDArray[Any],
    size: list[int],
    *,
    zeros: bool,
) -> Any:
    """Nodes for (1, C, H, W) in, (1, O, *size) out."""
    op = require("openvino").opset13
    out, channels = weights.shape[:2]
    down, across = pixels.shape[0] // 2 - 1, pixels.shape[1] // 2 - 1
    tiles = down * across

    def constant(values: Any, dtype: Any) -> Any:
        return op.constant(np.array(values, dtype=dtype, order="C"))

    def named(node: Any, how: str) -> Any:
        node.set_friendly_name(how + node.get_friendly_name())
        return node

    def reshaped(of: Any, *shape: int) -> Any:
        return op.reshape(of, constant(shape, np.int64), special_zero=False)

    def rows(of: Any, numbers: NDArray[Any]) -> Any:
        return op.gather(of, constant(numbers.ravel(), np.int32), constant(0, np.int32))

    def total(signs: NDArray[Any], parts: list[Any], how: str) -> Any:
        """The sum of parts with these signs, of which one at least is +."""
        first, *others = sorted(np.flatnonzero(signs), key=lambda k: -signs[k])
        found = parts[first]
        for k in others:
            found = named((op.add if signs[k] > 0 else op.subtract)(found, parts[k]), how)
        return found

    # a row per pixel, of all its channels; d[4 i + j]: pixel (i, j) of every tile
    # (to OpenVINO this is a picture of C x 1 pixels: that order it transposes fastest)
    table = named(reshaped(x, 1, channels, 1, -1), LOW)
    table = named(op.transpose(table, constant((0, 3, 1, 2), np.int64)), LOW)
    table = named(reshaped(table, -1, channels), LOW)
    if zeros:
        table = named(op.concat([table, constant(np.zeros((1, channels)), np.float32)], 0), LOW)
    places = [pixels[i : i + 2 * down : 2, j : j + 2 * across : 2] for i, j in np.ndindex(4, 4)]
    d = [named(rows(table, one), LOW) for one in places]
    v = [total(signs, d, LOW) for signs in np.kron(B_T, B_T)]
    v = [named(reshaped(one, 1, tiles, channels), LOW) for one in v]
    u = np.kron(G, G) @ weights.reshape(-1, 9).astype(np.float64).T
    u = constant(u.reshape(16, out, channels), np.float32)
    m = named(op.matmul(named(op.concat(v, 0), LOW), u, False, True), LOW)
    # products are added up in float32, and with this after them they come out so
    m = named(op.clamp(m, -1e30, 1e30), EXACT)
    m = named(op.split(m, constant(0, np.int64), 16), EXACT).outputs()
    # y[2 i + j]: pixel (i, j) of the results of every tile
    y = [total(signs, m, EXACT) for signs in np.kron(A_T, A_T)]
    y = op.concat([named(op.add(one, constant(bias, np.float32)), EXACT) for one in y], 0)
    i, j = np.indices(size)
    y = rows(reshaped(y, 4 * tiles, out), (2 * (i % 2) + j % 2) * tiles + i // 2 * across + j // 2)
    return op.transpose(reshaped(y, 1, *size, out), constant((0, 3, 1, 2), np.int64))
