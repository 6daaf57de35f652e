"""The ArcFace networks of the originals against their reference embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fixture import assert_close, filled, load

from facke_core.identity.iresnet import arcface_network


@pytest.mark.parametrize("name", ["arcface_se_ir101", "arcface_ir18_nose"])
def test_embeddings_equal_the_originals(name: str, shared: Path) -> None:
    tensors, meta = load(name, shared)
    network = arcface_network(filled(meta)).eval()
    assert list(network.state_dict()) == [entry["key"] for entry in meta["state_dict"]]
    with torch.inference_mode():
        embedding = network(tensors["x"])
    assert_close(embedding, tensors["embedding"], atol=1e-3)
    peak = tensors["embedding"].abs().max()
    assert_close(embedding / peak, tensors["embedding"] / peak, atol=1e-5)
    assert_close(F.normalize(embedding), tensors["embedding_l2"], atol=5e-6)
