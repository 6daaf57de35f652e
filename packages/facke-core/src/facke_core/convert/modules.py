"""The flat state dict of the network that a checkpoint describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from facke_core.convert.containers import Contents
from facke_core.convert.unpickler import Record, StoredTensor
from facke_core.errors import VerificationError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

__all__: list[str] = []

MAX_TENSORS = 20_000
_MAX_INNER, _MAX_NAME = 16, 500
_NAMES = ("params_ema", "ema", "model_ema", "state_dict", "model", "params", "net", "generator")
"""Names under which checkpoints keep the network, the averaged weights first."""


def state_of(contents: Contents) -> dict[str, Tensor]:
    """The network in a checkpoint as ``{name: tensor}``, as its own ``state_dict()`` would be.

    The checkpoint holds a plain state dict or a pickled module, alone or in a dict beside the
    optimiser, under one of the usual names, and with or without DataParallel's ``module.``.

    Raises:
        WeightsError: there is no network in it.
        VerificationError: its tensors overlap so that they would become larger than the file.
    """
    state = _network(contents.root, set())
    if not state:
        raise WeightsError(
            f"{contents.path} holds no network: {_described(contents.root)}. Give the checkpoint "
            "of a network, not of an optimiser or a training loop."
        )
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    tensors: dict[str, Tensor] = {}
    seen: set[str] = set()
    size = 0
    for name, stored in state.items():
        if not name.isprintable() or len(name) > _MAX_NAME:
            raise VerificationError(
                f"{contents.path} holds a tensor whose name is no text: {name[:60]!a}. It is "
                "damaged; get it again."
            )
        tensor = contents.tensor(stored)
        size += tensor.numel() * tensor.element_size()
        if size > 2 * contents.size or len(tensors) >= MAX_TENSORS:
            raise VerificationError(
                f"{contents.path} describes more than twice the numbers that it holds. It is "
                "damaged, or made to do harm; nothing in it was executed."
            )
        shared = stored.storage.key in seen  # which safetensors does not write
        tensors[name] = tensor.clone() if shared else tensor
        seen.add(stored.storage.key)
    return tensors


def _network(value: Any, seen: set[int]) -> dict[str, StoredTensor]:
    """The flat state of ``value``, or of what lies in it under a usual name; empty: none."""
    if id(value) in seen or len(seen) > _MAX_INNER:
        return {}
    seen.add(id(value))
    if isinstance(value, Record):
        return dict(_walk(value))
    if not isinstance(value, dict):
        return {}
    tensors = dict(_tensors(value))
    for name in _NAMES:
        inner = _network(value[name], seen) if name in value else {}
        if len(inner) > len(tensors):
            return inner
    return tensors


def _walk(root: Record) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of a recorded module and of those in it, named as ``state_dict()`` names them.

    A module can be in several places; in a file made to do harm, in endlessly many.
    """
    waiting, visits = [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        visits += 1
        if visits > MAX_TENSORS or len(prefix) > _MAX_NAME:
            raise WeightsError(
                f"A network of more than {MAX_TENSORS} parts is not read. Give a checkpoint of "
                "one network."
            )
        state = module.state
        if not isinstance(state, dict):
            continue
        skipped = state.get("_non_persistent_buffers_set")
        for name, stored in _tensors(state.get("_parameters")):
            yield prefix + name, stored
        for name, stored in _tensors(state.get("_buffers")):
            if not isinstance(skipped, list) or name not in skipped:
                yield prefix + name, stored
        inner = state.get("_modules")
        for name, child in inner.items() if isinstance(inner, dict) else ():
            if isinstance(name, str) and isinstance(child, Record):
                waiting.append((f"{prefix}{name}.", child))


def _tensors(value: Any) -> Iterator[tuple[str, StoredTensor]]:
    for name, item in value.items() if isinstance(value, dict) else ():
        if isinstance(name, str) and isinstance(item, StoredTensor):
            yield name, item


def _described(root: Any) -> str:
    if isinstance(root, dict):
        names = [ascii(name[:30]) for name in list(root)[:8] if isinstance(name, str)]
        return f"its entries are {', '.join(names) or 'none'}"
    if isinstance(root, Record):
        return f"it is an object of {root.name[:60]!a}, without parameters"
    return f"it is a {'tensor' if isinstance(root, StoredTensor) else type(root).__name__}"
