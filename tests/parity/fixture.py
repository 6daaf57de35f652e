"""Reads the parity fixtures and fills networks with their deterministic weights.

The rules are those of ``$FACKE_SHARED/parity/README.md``. ``conftest.py`` has the ``shared``
fixture, which skips where that folder is absent::

    tensors, meta = load("arcface_se_ir101", shared)
    network.load_state_dict(filled(meta))
    assert_close(network(tensors["x"]), tensors["embedding"], atol=1e-3)
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from facke_core.identity.crops import CropEncoder
from facke_core.identity.iresnet import build_arcface

_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def load(name: str, shared: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON) of a fixture; skips the test where the set has none of that name.

    A fixture without tensors gives an empty dict.
    """
    file = shared / "parity" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"no parity fixture {name!r} in {file.parent}")
    meta = json.loads(file.read_text("utf-8"))
    tensors = file.with_suffix(".safetensors")
    return (load_file(tensors) if tensors.is_file() else {}), meta


def rng(seed: str, key: str) -> np.random.Generator:
    """The generator that belongs to ``key`` (a weight with its prefix, or an input's key)."""
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "big")))


def uniform(seed: str, key: str, shape: tuple[int, ...]) -> Tensor:
    """A noise input that is not stored, U[0, 1); its key is, say, ``"input:step:eps"``."""
    return torch.from_numpy(rng(seed, key).random(shape)).float()


def fill(seed: str, prefix: str, entries: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The state dict of a list of ``{key, shape, dtype, fill}``, upstream names and order."""
    state: dict[str, Tensor] = {}
    for entry in entries:
        key, kind = entry["key"], entry["fill"]["kind"]
        if kind == "power":
            if key not in state:
                stem = key.rpartition(".")[0]
                u, v = _power(seed, prefix, stem, state[f"{stem}.weight_orig"])
                state[f"{stem}.weight_u"], state[f"{stem}.weight_v"] = u, v
            continue
        if kind == "zero":
            state[key] = torch.zeros(entry["shape"], dtype=torch.int64)
            continue
        n = rng(seed, prefix + key).standard_normal(entry["shape"])
        if kind == "normal":
            n = entry["fill"]["shift"] + entry["fill"]["scale"] * n
        elif kind == "var":
            n = 0.5 + 0.5 * np.abs(n)
        else:
            raise ValueError(f"unknown fill {kind!r} of {key}")
        state[key] = torch.from_numpy(np.asarray(n)).float()
    return state


def _power(seed: str, prefix: str, stem: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """``weight_u`` and ``weight_v`` of spectral normalisation after 64 power iterations."""
    w = weight.double().flatten(1).numpy()
    u = rng(seed, f"{prefix}{stem}.weight_u").standard_normal(len(w))
    u /= np.linalg.norm(u)
    for _ in range(64):
        v = w.T @ u
        v /= np.linalg.norm(v)
        u = w @ v
        u /= np.linalg.norm(u)
    return torch.from_numpy(u).float(), torch.from_numpy(v).float()


def filled(
    meta: Mapping[str, Any], part: str | None = None, *, prefix: str | None = None
) -> dict[str, Tensor]:
    """The state dict of a fixture's network, or of its sub-network ``part``.

    ``prefix`` replaces the fixture's own, for a network that shares another fixture's shapes.
    """
    entries = meta["state_dict"] if part is None else meta["state_dict"][part]
    if prefix is None:
        prefix = meta["fill_prefix"] if part is None else meta["fill_prefix"][part]
    return fill(meta["seed"], prefix, entries)


def encoder_of_step(meta: Mapping[str, Any], shared: Path) -> CropEncoder:
    """The identity encoder of the recorded training step, as the originals feed it: a shallower
    network than in the fixture that lists its tensors, the first two blocks of each layer."""
    _, deep = load("arcface_se_ir101", shared)
    deeper = re.compile(r"layer\d\.([2-9]|\d\d)\.")
    entries = [e for e in deep["state_dict"] if not deeper.match(e["key"])]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arcface.safetensors"
        save_file(fill(meta["seed"], meta["fill_prefix"]["arc"], entries), file)
        return build_arcface(weights=str(file), resize="nearest", normalize="imagenet")


def imagenet(u8: Tensor) -> Tensor:
    """``(u8 / 255 - mean) / std``, as the notes of the fixtures say."""
    return (u8.float() / 255 - _MEAN) / _STD


def assert_close(
    actual: Tensor, expected: Tensor, *, atol: float | None = None, rel_l2: float | None = None
) -> None:
    """Shape, maximal absolute deviation and relative L2 deviation, whichever are given."""
    assert actual.shape == expected.shape, f"{tuple(actual.shape)} != {tuple(expected.shape)}"
    difference = actual.detach().double() - expected.double()
    if atol is not None:
        assert difference.abs().max() <= atol, f"max |diff| {difference.abs().max():.3g} > {atol}"
    if rel_l2 is not None:
        ratio = difference.norm() / expected.double().norm()
        assert ratio <= rel_l2, f"relative L2 {ratio:.3g} > {rel_l2}"
