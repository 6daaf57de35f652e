"""Convolutions in another form: the same results, and only where they are faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
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

    assert rewrites.winograd(model) == 1

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

    assert rewrites.winograd(model) == 0

    assert "Convolution" in kinds(model)


def test_weights_that_are_computed_stay_with_their_convolution() -> None:
    x = op.parameter([1, 512, 6, 6], np.float32)
    weights = op.parameter([512, 512, 3, 3], np.float32)
    model = openvino.Model(
        [op.convolution(x, weights, [1, 1], [1, 1], [1, 1], [1, 1])], [x, weights], "it"
    )

    assert rewrites.winograd(model) == 0
