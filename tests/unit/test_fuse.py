"""``facke_gan.fuse`` and its geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from facke_core import SwapInputs
from facke_core.errors import ConfigError
from facke_core.faces.mesh import face_mesh
from facke_core.faces.templates import template_points
from facke_core.types import FaceBatch, GeneratorOutput, Step
from facke_gan.fuse import FuseConfig, FuseGenerator, build
from facke_gan.fusing import AlphaLoss, Fusing
from facke_gan.geometry import Geometry, geometry
from facke_gan.warp import DARKEST

SIZE = 64
TINY = FuseConfig(
    image_size=SIZE, network_size=32, identity_dim=8, channels=(8, 8, 8), num_blocks=1
)


def head(scale: float = 1.0, dx: float = 0.0) -> Tensor:
    """The mean face (1, 478, 2), in pixels."""
    points = face_mesh().points[:, :2] * SIZE / 4 * scale
    return (points + torch.tensor([SIZE / 2 + dx, SIZE * 0.45])).float()[None]


def picture(seed: int, rows: int = 1) -> Tensor:
    noise = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    big = torch.nn.functional.interpolate(noise, (SIZE, SIZE), mode="bicubic")
    return big.clamp(0.05, 0.95)


def inputs(**changes: Any) -> SwapInputs:
    identity = torch.nn.functional.normalize(torch.randn(1, 8), dim=1)
    made = SwapInputs(
        picture(0), picture(1), identity, source_mesh=head(), target_mesh=head(0.9, 1.0)
    )
    return made._replace(**changes)


def generator(config: FuseConfig = TINY) -> FuseGenerator:
    torch.manual_seed(0)
    return FuseGenerator(config).eval()


def conditions(made: Geometry) -> dict[str, Tensor]:
    return dict(zip(Geometry._fields[1:], made[1:], strict=True))


# -- geometry --------------------------------------------------------------------------------------


def test_a_face_bent_onto_itself_is_itself_and_trusted() -> None:
    made = geometry(inputs(source=picture(1), source_mesh=head(0.9, 1.0)))
    sure = (made.trust > 0.95).expand_as(made.x)
    assert float(sure.float().mean()) > 0.15
    off = (made.warped[sure] - picture(1)[sure]).abs()
    assert float(off.quantile(0.9)) < 0.03  # the other half of the face stands in at the nostrils
    torch.testing.assert_close(made.x, picture(1), atol=0.02, rtol=0)


def test_what_is_not_face_is_neither_mask_nor_trusted() -> None:
    made = geometry(inputs())
    assert float(made.mask[..., :4, :].max()) == 0
    assert float(made.trust[made.mask == 0].max()) == 0
    assert float(made.mask.max()) == pytest.approx(1, abs=1e-3)
    inner = made.mask[0, 0, 26:40, 24:42]
    assert float(inner.min()) > 0.9  # no hole beside the nose


def test_eyes_and_what_lies_before_the_face_are_kept() -> None:
    hand = torch.zeros(1, 1, SIZE, SIZE)
    hand[..., 40:50, 20:40] = 1
    plain, covered = geometry(inputs()), geometry(inputs(target_occlusion=hand))
    open_ = geometry(inputs(), eyes=False)
    assert float(covered.keep[..., 42:48, 24:36].min()) == 1
    assert float(plain.keep[..., 42:48, 24:36].max()) < 0.5
    eye = head(0.9, 1.0)[0, 468].round().long()
    assert float(plain.keep[0, 0, eye[1], eye[0]]) > 0.4
    assert float(open_.keep[0, 0, eye[1], eye[0]]) < 0.05


def test_what_covers_the_source_is_not_trusted() -> None:
    fringe = torch.zeros(1, 1, SIZE, SIZE)
    fringe[..., :28, :] = 1
    plain, covered = geometry(inputs()), geometry(inputs(source_occlusion=fringe))
    assert float(plain.trust[..., 20:23, 26:38].mean()) > 0.8
    assert float(covered.trust[..., 20:23, 26:38].mean()) < 0.1
    assert float(covered.trust[..., 40:44, 24:40].mean()) > 0.8


@pytest.mark.parametrize("missing", ["source_mesh", "target_mesh"])
def test_without_a_mesh_the_mean_face_stands_in_and_nothing_is_trusted(missing: str) -> None:
    made = geometry(inputs(**{missing: None}))
    assert torch.equal(made.x, picture(1))
    assert float(made.trust.max()) == 0
    assert float(made.warped.max()) == 0
    eyes = template_points("simswap_frontal", SIZE)[:2].round().long()
    assert all(float(made.mask[0, 0, y, x]) > 0.95 for x, y in eyes.tolist())
    assert float(made.mask[..., :3, :].max()) == 0


# -- generator -------------------------------------------------------------------------------------


def test_the_result_is_the_equation() -> None:
    """In full, of what the network says; the light is smooth, the pixels are the source's."""
    config = FuseConfig(
        image_size=32, network_size=32, identity_dim=8, channels=(8, 8, 8), num_blocks=1
    )
    net = generator(config)
    x, warped = torch.rand(2, 1, 3, 32, 32)
    ones = torch.ones(1, 1, 32, 32)
    maps = torch.zeros(1, 37, 8, 8)
    maps[:, 34:] = 0.3  # light of all three channels
    net._maps = lambda *_: maps  # type: ignore[method-assign]
    out = net(x, identity=torch.zeros(1, 8), warped=warped, trust=ones, mask=ones, keep=0 * ones)
    alpha = torch.sigmoid(torch.tensor(4.0))
    lit = (warped + DARKEST) * torch.exp(1.2 * torch.tanh(torch.tensor(0.3))) - DARKEST
    fill = net(
        x, identity=torch.zeros(1, 8), warped=warped, trust=-99 * ones, mask=ones, keep=0 * ones
    ).image
    torch.testing.assert_close(out.image, alpha * lit + (1 - alpha) * fill, atol=1e-5, rtol=0)
    assert float(fill.std()) < float(x.std()) / 2  # the target's light without its features


def test_what_is_kept_and_what_is_no_face_is_the_target_to_the_last_bit() -> None:
    made = geometry(inputs())
    keep = made.keep.clone()
    keep[..., 30:40, 20:30] = 1
    out = generator()(
        made.x, identity=inputs().identity, **{**conditions(made), "keep": keep}
    ).image
    kept = ((keep == 1) | (made.mask == 0)).expand_as(out)
    assert torch.equal(out[kept], made.x[kept])
    assert not torch.allclose(out[~kept], made.x[~kept], atol=0.02)


def test_detail_is_finer_than_the_network_sees() -> None:
    """Crops of twice the network's side: stripes of one pixel arrive."""
    stripes = picture(0).clone()
    stripes[..., ::2] *= 0.6
    made = geometry(inputs(source=stripes, source_mesh=head(0.9, 1.0)), pull=0.0)
    out = generator()(made.x, identity=inputs().identity, **conditions(made)).image.detach()
    middle = out[0, :, 26:38, 26:38]
    contrast = (middle[..., 1::2] / middle[..., ::2]).median()
    assert float(contrast) > 1.3


def test_a_sampler_without_meshes_uses_the_identity_alone() -> None:
    net, sampler = generator(), build(TINY).sampler
    no_mesh = inputs(source_mesh=None, target_mesh=None)
    with torch.no_grad():
        first = sampler(net, no_mesh)
        other = sampler(net, no_mesh._replace(source=picture(5)))
        third = sampler(net, no_mesh._replace(identity=-no_mesh.identity))
    assert torch.equal(first, other)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 100, "network_size": 64},
        {"network_size": 24},
        {"channels": (8, 8, 10**9)},
        {"num_blocks": 10**9},
    ],
)
def test_sizes_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        FuseConfig(**wrong)  # type: ignore[arg-type]


# -- training --------------------------------------------------------------------------------------


def batch(rows: int) -> FaceBatch:
    mesh = torch.cat([head(0.9 + 0.01 * i) for i in range(rows)])
    return FaceBatch(
        picture(0, rows),
        picture(1, rows),
        torch.nn.functional.normalize(torch.randn(rows, 8), dim=1),
        torch.ones(rows, dtype=torch.bool),
        picture(2, rows),
        mesh,
        mesh.flip(0),
    )


def test_some_samples_of_a_step_come_without_geometry_and_some_without_identity() -> None:
    seen: dict[str, Tensor] = {}

    def record(x: Tensor, **given: Tensor) -> GeneratorOutput:
        seen.update(given)
        return GeneratorOutput(x, {})

    net = generator()
    net.forward = record  # type: ignore[method-assign]
    Fusing()({"generator": net}, batch(64), torch.Generator().manual_seed(0))
    blind = seen["trust"].flatten(1).amax(1) == 0
    nameless = seen["identity"].norm(dim=1) == 0
    assert 2 <= int(blind.sum()) <= 24
    assert 1 <= int(nameless.sum()) <= 16
    assert float(seen["warped"][blind].max()) == 0
    assert float(seen["mask"][blind].max()) > 0.99


def test_alpha_is_held_to_the_trust_where_that_is_sure() -> None:
    trust = torch.tensor([1.0, 0.0, 0.5, 0.95]).view(1, 1, 2, 2)
    alpha = torch.tensor([0.5, 0.0, 0.0, 0.95]).view(1, 1, 2, 2)
    output = GeneratorOutput(torch.zeros(1, 3, 2, 2), {"alpha": alpha, "sure": trust})
    value = AlphaLoss()(Step(batch(1), output, {}))
    torch.testing.assert_close(value, torch.tensor([0.25 / 4]))
