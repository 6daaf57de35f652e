"""The tools of the checks: messages, comparisons, and guards of global state."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__: list[str] = []


def require(condition: object, message: str) -> None:
    """Fail with ``message``, which says what is wrong and what to do, unless ``condition`` holds.

    Raises:
        AssertionError: it does not.
    """
    __tracebackhide__ = True
    if not condition:
        raise AssertionError(message)


@contextmanager
def doing(message: str) -> Iterator[None]:
    """Turn an exception in the ``with`` block into a failure with ``message``.

    Raises:
        AssertionError: anything was raised; failures inside keep their own message.
    """
    __tracebackhide__ = True
    try:
        yield
    except (AssertionError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise AssertionError(f"{message} ({type(error).__name__}: {error})") from error


def change(a: Tensor, b: Tensor) -> float:
    """The mean absolute difference of two tensors; infinite where shapes differ, or for NaN."""
    if a.shape != b.shape:
        return float("inf")
    value = float((a.detach().double() - b.detach().double()).abs().mean())
    return value if value == value else float("inf")


def largest_change(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors; infinite where shapes differ, or for NaN."""
    if a.shape != b.shape:
        return float("inf")
    difference = (a.detach().double() - b.detach().double()).abs()
    value = float(difference.max()) if a.numel() else 0.0
    return value if value == value else float("inf")


@contextmanager
def leaves_alone(what: str, tensors: Iterable[object]) -> Iterator[None]:
    """Fail where the ``with`` block writes into one of ``tensors``; other objects are left out."""
    __tracebackhide__ = True
    kept = [(x, x.detach().clone()) for x in tensors if isinstance(x, Tensor)]
    yield
    for now, before in kept:
        require(
            torch.equal(now.detach(), before),
            f"{what} writes into its input. The caller still needs that picture: avoid operations "
            "that end in an underscore, or clone first.",
        )


@contextmanager
def leaves_randomness_alone(what: str) -> Iterator[None]:
    """Fail where the ``with`` block uses torch's, numpy's or Python's global random generator."""
    import numpy as np

    __tracebackhide__ = True
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    yield
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1]  # type: ignore[index]
    for name, same in (
        ("torch", torch.equal(before[0], after[0])),
        ("random", before[1] == after[1]),
        ("numpy.random", bool((before[2] == after[2]).all())),
    ):
        require(
            same,
            f"{what} uses the global random generator of {name}, so two swaps with one seed "
            "differ, and so do the user's own draws. Draw with generator=rng.",
        )


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Give the ``with`` block torch's global randomness from ``seed``; afterwards it is as
    before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def rng(seed: int = 0) -> torch.Generator:
    """A random generator of its own, on the CPU."""
    return torch.Generator().manual_seed(seed)


def awaken(module: Any, seed: int = 7) -> Any:
    """Change a module in place as some training would, and return it.

    Parameters that are all zero become noise, as zero-initialised layers would hide everything
    before them, and batch statistics become others than those of a fresh layer. The noise follows
    from ``seed``. Anything but a module is returned as it is.
    """
    if not isinstance(module, nn.Module):
        return module
    noise = rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not bool(parameter.any()):
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=noise))
        for layer in module.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
                mean, var = layer.running_mean, layer.running_var
                if mean is not None and var is not None:
                    mean.copy_(0.1 * torch.randn(mean.shape, generator=noise))
                    var.copy_(0.5 + torch.rand(var.shape, generator=noise))
    return module


def frozen(module: Any) -> Any:
    """Put a module into evaluation mode without gradients, as :func:`facke_core.load` leaves it."""
    return module.eval().requires_grad_(False) if isinstance(module, nn.Module) else module


def is_frozen(cls: Any) -> bool:
    """Tell whether ``cls`` is a dataclass with ``frozen=True``."""
    parameters = getattr(cls, "__dataclass_params__", None)
    return isinstance(cls, type) and parameters is not None and bool(parameters.frozen)


def rows(value: Any, chosen: slice | Tensor, count: int) -> Any:
    """The chosen rows of a tensor that has one per sample; everything else as it is."""
    batched = isinstance(value, Tensor) and value.ndim > 0 and len(value) == count
    return value[chosen] if batched else value
