"""Small networks whose weights lie in the package, known by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from typing import TypeVar

import torch
from safetensors.torch import load
from torch import nn

from facke_core.errors import VerificationError

__all__: list[str] = []

N = TypeVar("N", bound=nn.Module)


@torch.inference_mode(False)
def bundled(make: Callable[[], N], package: str, file: str, digest: str) -> N:
    """Make a network with the weights in a file of a package, to be used and not trained.

    It is an ordinary module, also where it is made in inference mode.

    Args:
        make: makes the network, which takes float32 from float16.
        package: the import name of the package.
        file: a safetensors file in it.
        digest: its SHA-256.

    Raises:
        VerificationError: the file is another.
    """
    content = resources.files(package).joinpath(file).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise VerificationError(
            f"{file} of facke-core is damaged: its SHA-256 is not {digest}. Install facke-core "
            "again."
        )
    net = make()
    net.load_state_dict(load(content))
    return net.eval().requires_grad_(False)
