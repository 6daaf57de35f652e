"""Convolutions in other forms: the same results, and only where they are faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facke_core.backends import rewrites
from facke_core.backends.runtimes import openvino_core

openvino: Any = pytest.importorskip("openvino")
op = openvino.opset13
RNG = np.random.default_rng(0)


def convolution(
    channels: tuple[int, int] = (512, 512),
    *,
    size: tuple[int, int] = (6, 8),
    kernel: int = 3,
    pad: int = 1,
    pad_end: int | None = None,
    reflect: tuple[int, int] = (0, 0),
    stride: int = 1,
    dilation: int = 1,
    bias: bool = False,
    batch: int = 1,
    before: int = 0,
) -> Any:
    """A model of one convolution, with ``before`` others in front of it."""
    x = op.parameter([batch, channels[0], *size], np.float32)
    h: Any = x
    for _ in range(before):
        h = op.convolution(h, identity(channels[0]), [1, 1], [0, 0], [0, 0], [1, 1])
    if any(reflect):
        pads = [op.constant(np.array([0, 0, n, n], np.int64)) for n in reflect]
        h = op.pad(h, *pads, "reflect")
    weights = RNG.standard_normal((*channels[::-1], kernel, kernel)) / (kernel * channels[0] ** 0.5)
    h = op.convolution(
        h,
        op.constant(weights.astype(np.float32)),
        [stride, stride],
        [pad, pad],
        [pad if pad_end is None else pad_end] * 2,
        [dilation, dilation],
    )
    if bias:
        values = RNG.standard_normal((1, channels[1], 1, 1)).astype(np.float32)
        h = op.add(op.constant(values), h)
    return openvino.Model([op.relu(h)], [x], "it")


def identity(channels: int) -> Any:
    return op.constant(np.eye(channels, dtype=np.float32)[:, :, None, None])


def results(model: Any, x: NDArray[Any]) -> NDArray[Any]:
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    found: NDArray[Any] = openvino_core().compile_model(model, "CPU", settings)([x])[0]
    return found.copy()


def kinds(model: Any) -> list[str]:
    return [one.get_type_name() for one in model.get_ordered_ops()]


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (6, 8)},
        {"size": (7, 5)},
        {"size": (6, 6), "pad": 0},
        {"size": (5, 8), "pad": 0},
        {"size": (6, 7), "pad": 0, "reflect": (1, 1)},
        {"size": (6, 6), "pad": 1, "reflect": (1, 2)},
        {"size": (6, 6), "pad": 0, "pad_end": 2},
        {"size": (4, 6), "bias": True},
        {"size": (4, 4), "channels": (512, 640), "bias": True, "before": 2},
    ],
)
def test_winograd_computes_what_the_convolution_does(settings: dict[str, Any]) -> None:
    model = convolution(**settings)
    x = RNG.standard_normal(model.inputs[0].shape).astype(np.float32)
    expected = results(model, x)

    assert rewrites.winograd(model, spared=settings.get("before", 0)) == 1

    assert kinds(model).count("Convolution") == settings.get("before", 0)
    assert kinds(model).count("Pad") == 0
    assert kinds(model).count("MatMul") == 1
    found = results(model, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": (256, 512)},
        {"channels": (512, 256)},
        {"kernel": 1},
        {"kernel": 5},
        {"stride": 2},
        {"dilation": 2},
        {"batch": 2},
        {"size": (42, 40)},
    ],
)
def test_winograd_leaves_what_would_not_be_faster(settings: dict[str, Any]) -> None:
    model = convolution(**settings)

    assert rewrites.winograd(model, spared=0) == 0

    assert "Convolution" in kinds(model)


def test_winograd_spares_the_first_convolutions() -> None:
    model = convolution(before=1)

    assert rewrites.winograd(model, spared=2) == 0


def test_weights_that_are_computed_stay_with_their_convolution() -> None:
    x = op.parameter([1, 512, 6, 6], np.float32)
    weights = op.parameter([512, 512, 3, 3], np.float32)
    model = openvino.Model(
        [op.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [x, weights], "it"
    )

    assert rewrites.winograd(model, spared=0) == 0


def doubled(
    channels: int = 512,
    size: tuple[int, int] = (6, 8),
    *,
    times: int = 2,
    mode: str = "linear_onnx",
    coordinate_transformation_mode: str = "half_pixel",
    **how: Any,
) -> Any:
    """A model of one convolution of a picture enlarged so many times."""
    model = convolution((channels, 24), size=(times * size[0], times * size[1]), **how)
    (convolved,) = (one for one in model.get_ordered_ops() if "Convolution" in one.get_type_name())
    padded = convolved.input_value(0).get_node()
    taker = padded if padded.get_type_name() == "Pad" else convolved
    x = op.parameter([model.inputs[0].shape[0], channels, *size], np.float32)
    before = op.convolution(x, identity(channels), [1, 1], [0, 0], [0, 0], [1, 1])
    large = op.interpolate(
        before,
        op.constant(np.array([times * n for n in size], np.int64)),
        mode,
        "sizes",
        coordinate_transformation_mode=coordinate_transformation_mode,
        axes=op.constant(np.array([2, 3], np.int64)),
    )
    taker.input(0).replace_source_output(large.output(0))
    return openvino.Model([one.input_value(0) for one in model.get_results()], [x], "it")


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": 0, "reflect": (1, 1)},
        {"size": (7, 5), "pad": 0, "reflect": (1, 1)},
        {"size": (1, 2), "pad": 1},
        {"pad": 0},
        {"pad": 0, "pad_end": 2, "bias": True},
        {"pad": 1, "reflect": (1, 2)},
    ],
)
def test_after_doubling_the_small_picture_is_enough(settings: dict[str, Any]) -> None:
    model = doubled(**settings)
    x = RNG.standard_normal(model.inputs[0].shape).astype(np.float32)
    expected = results(model, x)

    assert rewrites.after_doubling(model, spared=1) == 1

    assert kinds(model).count("Convolution") == 1
    assert not {"Interpolate", "Pad"} & {*kinds(model)}
    found = results(model, x)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 256},
        {"size": (4, 33)},
        {"times": 3},
        {"kernel": 1, "pad": 0},
        {"stride": 2},
        {"batch": 2},
        {"mode": "nearest"},
        {"coordinate_transformation_mode": "align_corners"},
    ],
)
def test_other_pictures_and_convolutions_stay(settings: dict[str, Any]) -> None:
    model = doubled(**settings)

    assert rewrites.after_doubling(model, spared=1) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": (8, 3), "kernel": 7, "pad": 3},
        {"channels": (8, 3), "kernel": 3, "pad": 1, "bias": True},
        {"channels": (8, 4), "kernel": 7, "pad": 0, "reflect": (3, 3)},
        {"channels": (8, 1), "kernel": 2, "pad": 0, "pad_end": 1},
        {"channels": (8, 2), "kernel": 1, "pad": 0, "batch": 3},
    ],
)
def test_four_pixels_at_once_are_the_same_pixels(settings: dict[str, Any]) -> None:
    model = convolution(size=(8, 12), **settings)
    x = RNG.standard_normal(model.inputs[0].shape).astype(np.float32)
    expected = results(model, x)

    assert rewrites.four_at_once(model) == 1

    assert "DepthToSpace" in kinds(model)
    np.testing.assert_allclose(results(model, x), expected, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"channels": (8, 5)}, {"channels": (8, 3), "size": (7, 8)}, {"channels": (8, 3), "stride": 2}],
)
def test_many_outputs_and_odd_sizes_stay_as_they_are(settings: dict[str, Any]) -> None:
    assert rewrites.four_at_once(convolution(**settings)) == 0


def test_rounded_kernels_keep_their_sums() -> None:
    model = convolution((16, 24), kernel=3, before=1)
    last = [one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution"][1]
    exact = torch.tensor(last.input_value(1).get_node().data)

    rewrites.round_weights(model, spared=1)

    rounded = torch.tensor(last.input_value(1).get_node().data)
    assert torch.equal(rounded, rounded.bfloat16().float())
    steps = exact.abs().amax((2, 3)) * 2**-7
    assert ((rounded - exact).abs().amax((2, 3)) <= steps).all()
    naive = (exact.bfloat16().float() - exact).sum((2, 3)).abs()
    kept = (rounded - exact).sum((2, 3)).abs()
    assert (kept <= steps / 2).all()
    assert kept.mean() < 0.6 * naive.mean()


def test_first_convolutions_keep_their_weights() -> None:
    model = convolution((16, 24))
    (node,) = (one for one in model.get_ordered_ops() if one.get_type_name() == "Convolution")
    before = node.input_value(1).get_node().data.copy()

    rewrites.round_weights(model, spared=1)

    assert np.array_equal(node.input_value(1).get_node().data, before)


def test_folding_makes_constants_of_what_shapes_determine() -> None:
    x = op.parameter([1, 8, 4, 4], np.float32)
    shape = op.concat([op.constant(np.array([1, 8])), op.constant(np.array([1, 1]))], 0)
    bias = op.reshape(op.constant(np.arange(8, dtype=np.float32)), shape, special_zero=False)
    model = openvino.Model([op.add(x, bias)], [x], "it")

    rewrites.fold(model)

    assert "Reshape" not in kinds(model)
