"""The outline of a network: names and shapes of its tensors, counted without memory for them.

Configurations and the names in files say how large a network is to be. It is built on the device
``meta``, and given up as soon as it has become larger than its weights.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from facke_core.errors import ConfigError, WeightsError
from facke_core.weights.layout import check_fit

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__: list[str] = []

MAX_NUMBERS = 2**29
"""Numbers of a network without weights; SimSwap's largest has a fifth of them."""
MAX_TENSORS = 20_000
"""Tensors of a network without weights."""
_FEW, _SMALL = 800, 2**24
"""Tensors, and numbers in them, that a network may have however small its file is. A message that
names the missing ones is of use, and buffers that are not saved count, too."""
_MODULES = 20
"""Modules per tensor that a network may have: activations, containers."""
_SHOWN = 1000
"""Characters of its settings that a message shows."""


class _TooLarge(Exception):
    """A network has become larger than it may."""


def check_outline(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], *, source: str, built_by: str
) -> None:
    """Compare ``state`` with the network that ``build`` makes, without memory for its weights.

    Args:
        build: makes the network.
        state: its supposed tensors.
        source: the origin of the tensors, for messages.
        built_by: the settings that the network follows from, for messages.

    Raises:
        WeightsError: missing or unexpected tensors, or other shapes; or it becomes so large that
            it is another network.
    """
    import torch

    numbers = 2 * sum(tensor.numel() for tensor in state.values()) + _SMALL
    try:
        own = _outline(build, 2 * len(state) + _FEW, numbers)
    except _TooLarge as error:
        raise WeightsError(
            f"{source} does not fit the network built from {built_by[:_SHOWN]}, which is larger: "
            f"{error}. Use the configuration that these weights were saved with."
        ) from None
    if isinstance(own, torch.nn.Module):
        check_fit(own.state_dict(), state, source=source, built_by=built_by[:_SHOWN])


def bounded(build: Callable[[], Any], *, built_by: str) -> None:
    """Refuse a network that nobody could hold in memory, before it is built with fresh weights.

    Raises:
        ConfigError: more than :data:`MAX_TENSORS` tensors or :data:`MAX_NUMBERS` numbers.
    """
    try:
        own = _outline(build, MAX_TENSORS, MAX_NUMBERS)
        size = sum(p.numel() for p in own.parameters()) if hasattr(own, "parameters") else 0
        if size > MAX_NUMBERS:
            raise _TooLarge(f"it has {size:,} numbers, more than {MAX_NUMBERS:,}")
    except _TooLarge as error:
        raise ConfigError(
            f"The network built from {built_by[:_SHOWN]} is too large: {error}. Choose smaller "
            "settings."
        ) from None


def _outline(build: Callable[[], Any], tensors: int, numbers: int) -> Any:
    """Build on ``meta``; None for a network that looks at its own numbers, which are not there.

    Such a network is built as it is, within ``numbers``.
    """
    import torch

    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), _limits(tensors, 2**50):
            return build()
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]), _limits(tensors, numbers):
            build()
        return None


@contextmanager
def _limits(tensors: int, numbers: int) -> Iterator[None]:
    """Raise :class:`_TooLarge` in this thread once modules have more than that."""
    from torch.nn.modules import module as hooks

    thread = threading.get_ident()
    counted = {"tensors": 0, "numbers": 0, "modules": 0}

    def count(what: str, amount: int, limit: int) -> None:
        counted[what] += amount
        if counted[what] > limit:
            raise _TooLarge(f"it has more than {limit:,} {what}")

    def on_tensor(_: Any, name: str, tensor: Any) -> None:
        if threading.get_ident() == thread and tensor is not None:
            count("tensors", 1, tensors)
            count("numbers", tensor.numel(), numbers)

    def on_module(_: Any, name: str, module: Any) -> None:
        if threading.get_ident() == thread:
            count("modules", 1, _MODULES * tensors)

    with ExitStack() as stack:
        for register, hook in (
            (hooks.register_module_parameter_registration_hook, on_tensor),
            (hooks.register_module_buffer_registration_hook, on_tensor),
            (hooks.register_module_module_registration_hook, on_module),
        ):
            stack.callback(register(hook).remove)
        yield
