"""The whole identity extractors of Facke: resize, normalisation, network, unit length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fixture import assert_close, filled, imagenet, load
from safetensors.torch import save_file
from torch import Tensor

from facke_core.identity.crops import CropEncoder
from facke_core.identity.iresnet import build_arcface, build_cosface

_AS_ORIGINAL: dict[str, Any] = {
    "crop_template": "",
    "resize": "nearest",
    "normalize": "imagenet",
}
_NETWORKS = {
    "arc": ("arcface_se_ir101", build_arcface, "nearest112"),
    "cos": ("cosface_sphere20", build_cosface, "nearest112x96"),
}


@pytest.fixture(scope="module", params=list(_NETWORKS))
def extractor(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str, CropEncoder]:
    name, build, planes = _NETWORKS[request.param]
    _, meta = load(name, shared)
    _, extractors = load("id_extractor", shared)
    file = tmp_path_factory.mktemp("id") / f"{name}.safetensors"
    save_file(filled(meta, prefix=extractors["fill_prefix"][request.param]), file)
    return request.param, planes, build(weights=str(file), **_AS_ORIGINAL)


@pytest.fixture(scope="module")
def tensors(shared: Path) -> dict[str, Tensor]:
    return load("id_extractor", shared)[0]


@pytest.mark.parametrize("size", [224, 256, 200])
def test_identities_equal_the_originals(
    size: int, extractor: tuple[str, str, CropEncoder], tensors: dict[str, Tensor]
) -> None:
    name, planes, encoder = extractor
    u8 = tensors[f"x{size}_u8"]
    crop = u8.float() / 255
    assert torch.equal(encoder.prepare(crop)[0, 0], tensors[f"{planes}_{size}_ch0"])
    assert torch.equal(encoder.normalize(crop), imagenet(u8))
    with torch.inference_mode():
        assert_close(encoder(crop), tensors[f"{name}{size}"], atol=5e-6)


def test_the_default_resampling_is_another(
    extractor: tuple[str, str, CropEncoder], tensors: dict[str, Tensor]
) -> None:
    name, _, encoder = extractor
    smooth = CropEncoder(
        encoder.network,
        encoder.spec,
        template="arcface",
        normalize=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    with torch.inference_mode():
        identity = smooth(tensors["x224_u8"].float() / 255)
    assert (identity - tensors[f"{name}224"]).abs().max() > 5e-4
