"""Digests that tell one identity encoder from another, by settings and every one of its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from facke_core.protocols import IdentityEncoder

__all__: list[str] = []

LOCATIONS = ("model", "weights", "revision", "local_files_only")
"""Settings that say where the weights lie. What they are is in the tensors."""


def encoder_digest(encoder: IdentityEncoder, settings: Mapping[str, Any]) -> str:
    """SHA-256 over an encoder's settings, parameters and buffers, as 64 hexadecimal digits.

    Two encoders with one digest give the same embeddings. It does not depend on the device, the
    memory format or the place of the weights.

    Args:
        encoder: the encoder that :func:`facke_core.load_encoder` built of ``settings``.
        settings: ``{"name": ..., **settings}`` as in a recipe's ``identity_encoder``.
    """
    kept = {key: value for key, value in settings.items() if key not in LOCATIONS}
    spec = encoder.spec
    about = [kept, spec.embedding_dim, list(spec.input_size), spec.template]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    if isinstance(encoder, nn.Module):
        # not the state_dict: it lacks what is not persistent, such as a centroid
        tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data
