"""The CosFace sphere networks of the originals against their reference embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixture import assert_close, filled, load

from facke_core.identity.iresnet import cosface_network


@pytest.mark.parametrize("name", ["cosface_sphere20", "cosface_sphere64"])
def test_embeddings_equal_the_originals(name: str, shared: Path) -> None:
    tensors, meta = load(name, shared)
    network = cosface_network(filled(meta))
    assert list(network.state_dict()) == [entry["key"] for entry in meta["state_dict"]]
    with torch.inference_mode():
        assert_close(network(tensors["x"]), tensors["embedding"], rel_l2=1e-5)
