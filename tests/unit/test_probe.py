"""The swap probe tells a model that swaps from one that copies."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.config import from_dict
from facke_core.errors import ConfigError, DataError
from facke_core.nn.normalize import IMAGENET_STD
from facke_core.sampling import SinglePass
from facke_core.training.probe import ProbeConfig, ProbeReport, SwapProbe, choose_panel
from facke_core.types import SwapInputs
from standins import ColourEncoder, FunctionGenerator, FunctionSampler

SIZE = 16


def encoder() -> ColourEncoder:
    """Sees a face as its 4 x 4 mean colours."""
    return ColourEncoder(4, centre=0.5, template="simswap_frontal")


def generator(picture: Callable[[Tensor, Tensor], Tensor]) -> FunctionGenerator:
    return FunctionGenerator(lambda x, identity: picture(x, identity), SIZE, identity_dim=48)


def cells(colours: Tensor) -> Tensor:
    """A picture of what :func:`encoder` saw."""
    return F.interpolate(colours.view(-1, 3, 4, 4), SIZE)


def copied(x: Tensor, identity: Tensor) -> Tensor:
    return x


def blurred(x: Tensor, identity: Tensor) -> Tensor:
    return x - F.adaptive_avg_pool2d(x, 1) * 0.3


def pasted(x: Tensor, identity: Tensor) -> Tensor:
    """Just the face that :func:`encoder` saw."""
    return 0.5 + 0.5 * cells(identity)


def blended(x: Tensor, identity: Tensor) -> Tensor:
    return 0.6 * x + 0.4 * cells(identity).abs()


def hinted(x: Tensor, identity: Tensor) -> Tensor:
    """The target changed by little, towards the source."""
    return x + 0.1 * cells(identity - encoder()(x))


def haunted(x: Tensor, identity: Tensor) -> Tensor:
    """The target changed much, by a pattern that :func:`encoder` averages away."""
    stripes = torch.tensor([0.0, 0.2, -0.2, 0.0]).repeat(SIZE // 4)
    return x + stripes * (F.cosine_similarity(encoder()(x), identity) < 0.99)[:, None, None, None]


COPY, BLUR, PASTE, BLEND, HINT, GHOST = map(
    generator, (copied, blurred, pasted, blended, hinted, haunted)
)


def faces(people: int = 5, pictures: int = 2, contrast: float = 0.6) -> Any:
    rng = torch.Generator().manual_seed(3)
    own = torch.rand(people, 3, 4, 4, generator=rng).repeat_interleave(pictures, 0)
    images = F.interpolate(0.5 + (own - 0.5) * contrast, SIZE, mode="bilinear").mul(255).byte()
    embeddings = encoder()(images.float() / 255)
    return SimpleNamespace(
        images=images,
        embeddings=torch.stack([embeddings, embeddings], 1),
        mesh=None,
        people=torch.arange(people).repeat_interleave(pictures),
        weights=torch.ones(people * pictures),
    )


def probe(config: ProbeConfig | None = None, **options: Any) -> SwapProbe:
    settings: dict[str, Any] = {"sampler": SinglePass(), "encoder": encoder()}
    return SwapProbe(faces(), config=config or ProbeConfig(), **settings | options)


def test_a_copy_gains_nothing_and_leaves_all_of_the_target() -> None:
    found = probe()(COPY, 1)
    assert found.gained == pytest.approx(0, abs=1e-6)
    assert found.left == pytest.approx(1, abs=1e-6)
    assert (found.top1, found.changed, found.reconstruction) == (0, 0, 0)


def test_a_pasted_source_is_found_as_the_source() -> None:
    found = probe()(PASTE, 5000)
    assert found.top1 == 1
    assert found.gained > 0.3
    assert found.left < 0.7
    assert found.retrieval == pytest.approx(0, abs=1e-5)
    assert found.warning == ""


def test_every_number_is_the_mean_that_its_name_says() -> None:
    judged, model = probe(), BLEND
    found, crops = judged(model, 1), faces()
    images = crops.images[judged.panel].float() / 255
    look, values = encoder(), {name: [] for name in found.values}  # type: ignore[var-annotated]
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    seen = look(images)
    for i, source in enumerate(seen):
        for j, (target, image) in enumerate(zip(seen, images, strict=True)):
            result = model(image[None], identity=source[None]).image[0].clamp(0, 1)
            if i == j:
                error = ((result - image) / std).abs().mean()
                values["probe.reconstruction"].append(float(error))
                continue
            face = look(result[None])[0]
            values["probe.gained"].append(float(face @ source - target @ source))
            values["probe.left"].append(float(face @ target))
            values["probe.top1"].append(int((seen @ face).argmax()) == i)
            values["probe.changed"].append(float((result - image).abs().mean()))
            values["probe.retrieval"].append(1 - float(face @ source))
    means = {name: sum(v) / len(v) for name, v in values.items() if v}
    means["probe.score"] = means["probe.retrieval"] + means["probe.reconstruction"]
    assert found.values == pytest.approx(means, abs=1e-5)
    assert 0 < means["probe.top1"] < 1


def test_the_preview_has_sources_down_and_targets_across() -> None:
    judged = probe()
    preview = judged(PASTE, 1).preview
    assert preview is not None
    assert preview.shape == (3, 6 * (SIZE + 4) - 4, 6 * (SIZE + 4) - 4)

    def cell(row: int, column: int) -> Tensor:
        top, left = row * (SIZE + 4), column * (SIZE + 4)
        return preview[:, top : top + SIZE, left : left + SIZE]

    images = faces().images[judged.panel].float() / 255
    assert torch.allclose(cell(2, 0), images[1], atol=1e-6)
    assert torch.allclose(cell(0, 4), images[3], atol=1e-6)
    assert torch.equal(cell(2, 1), cell(2, 5))  # the same source on two targets
    assert not torch.equal(cell(1, 5), cell(2, 5))


def test_no_preview_is_made_where_none_is_asked_for() -> None:
    assert probe(ProbeConfig(preview=False))(COPY, 1).preview is None


def test_a_judge_is_asked_instead_of_the_training_encoder() -> None:
    grey = encoder()
    grey.register_forward_pre_hook(
        lambda _, faces: faces[0].mean(1, keepdim=True).expand_as(faces[0])
    )
    own, other = probe()(BLEND, 1), probe(judge=grey)(BLEND, 1)
    assert own.gained != pytest.approx(other.gained, abs=1e-3)
    assert own.reconstruction == other.reconstruction


def test_the_sampler_gets_small_batches_and_the_same_noise_every_time() -> None:
    def noisy(generator: Any, inputs: SwapInputs, rng: torch.Generator | None) -> Tensor:
        sizes.append(len(inputs.target))
        drawn.append(torch.rand(inputs.target.shape, generator=rng))
        return (inputs.target + drawn[-1] * 0.1).clamp(0, 1)

    sizes: list[int] = []
    drawn: list[Tensor] = []
    judged = probe(sampler=FunctionSampler(noisy), seed=7)
    first, second = judged(COPY, 1), judged(COPY, 1)
    assert max(sizes) <= 8
    assert sum(sizes) == 2 * 25
    assert first == second
    assert not torch.equal(drawn[0], drawn[1])
    other = probe(sampler=FunctionSampler(noisy), seed=8)(COPY, 1)
    assert other != first


def test_the_generator_and_all_noise_are_left_as_they_were() -> None:
    norm, drop, frozen = nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 3, 1)
    seen: list[tuple[bool, bool]] = []

    def careless(x: Tensor, identity: Tensor) -> Tensor:
        """Draws torch's own noise, has batch statistics and a part that stays frozen."""
        seen.append((model.training or drop.training, torch.is_grad_enabled()))
        return drop(norm(frozen(x))) + torch.rand_like(x) * 0.1

    model = generator(careless)
    model.norm, model.drop, model.frozen = norm, drop, frozen
    model.train()
    frozen.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = torch.get_rng_state()
    probe()(model, 1)
    assert set(seen) == {(False, False)}
    assert model.training
    assert drop.training
    assert not frozen.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_generator_trains_on_after_a_probe_that_failed() -> None:
    def failing(x: Tensor, identity: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model = generator(failing).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        probe()(model, 1)
    assert model.training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("model", [COPY, BLUR])
def test_a_model_that_only_reconstructs_is_warned_of_with_numbers_and_remedies(
    model: FunctionGenerator,
) -> None:
    warning = probe()(model, 1000).warning
    assert "At step 1000 the model only reconstructs" in warning
    assert re.search(r"gain 0\.0\d of the source's .* keep \d\.\d\d of the target's", warning)
    for remedy in ("loss.identity.weight", "data.intra", "data.schedule", "data.composite"):
        assert remedy in warning


@pytest.mark.parametrize("model", [PASTE, BLEND, HINT, GHOST])
def test_a_model_whose_results_depend_on_the_source_is_not_warned_of(
    model: FunctionGenerator,
) -> None:
    assert probe()(model, 5000).warning == ""


def test_a_model_that_makes_someone_else_of_everybody_is_not_warned_of() -> None:
    def negative(x: Tensor, identity: Tensor) -> Tensor:
        own = F.cosine_similarity(encoder()(x), identity) > 0.99
        return torch.where(own[:, None, None, None], x, 1 - x)

    faint = faces(contrast=0.05)
    judged = SwapProbe(faint, config=ProbeConfig(), sampler=SinglePass(), encoder=encoder())
    found = judged(generator(negative), 5000)
    assert found.left < -0.9
    assert found.gained < 0.05
    assert found.changed < 0.02
    assert found.warning == ""


def test_the_warning_waits_comes_once_and_comes_again_after_a_relapse() -> None:
    judged = probe(ProbeConfig(patience=200, preview=False))
    models: list[tuple[int, FunctionGenerator]] = [
        (199, COPY),
        (200, COPY),
        (300, COPY),
        (400, PASTE),
        (500, COPY),
        (600, COPY),
    ]
    came = [bool(judged(model, step).warning) for step, model in models]
    assert came == [False, True, False, False, True, False]


def test_numbers_of_a_broken_model_are_not_a_number_and_warn_of_nothing() -> None:
    found = probe()(generator(lambda x, identity: x * float("nan")), 5000)
    assert found.gained != found.gained
    assert not found.score < 1e9
    assert found.warning == ""


def test_the_panel_is_the_same_whatever_the_seed() -> None:
    assert torch.equal(probe(seed=0).panel, probe(seed=9).panel)


def test_the_panel_is_spread_over_the_people() -> None:
    people = torch.arange(100).repeat_interleave(3)
    panel = choose_panel(people, torch.ones(300), 5)
    assert people[panel].tolist() == [10, 30, 50, 70, 90]
    assert panel.tolist() == [30, 90, 150, 210, 270]  # the first picture of each


def test_the_panel_prefers_the_largest_weights() -> None:
    people = torch.tensor([4, 4, 3, 3, 2, 2, 1, 1, 0, 0])
    weights = torch.tensor([1.0, 3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    panel = choose_panel(people, weights, 3)
    assert panel.tolist() == [6, 4, 1]


@pytest.mark.parametrize("people", [2, 3, 7])
def test_the_panel_has_different_people_and_at_most_all(people: int) -> None:
    rng = torch.Generator().manual_seed(people)
    number = torch.randint(people, (200,), generator=rng)
    panel = choose_panel(number, torch.rand(200, generator=rng), 5)
    assert len(panel) == len(set(number[panel].tolist())) == min(people, 5)


def test_one_person_makes_no_panel() -> None:
    with pytest.raises(DataError, match=r"needs two people, the faces show 1\..*probe.every=0"):
        SwapProbe(faces(1), config=ProbeConfig(), sampler=SinglePass(), encoder=encoder())


def test_two_people_are_enough() -> None:
    found = SwapProbe(faces(2), config=ProbeConfig(), sampler=SinglePass(), encoder=encoder())
    assert found(PASTE, 1).top1 == 1


def test_the_config_is_read_from_a_recipe() -> None:
    settings: dict[str, Any] = {"every": 500, "faces": 4, "encoder": {"name": "dlib-resnet29"}}
    config = from_dict(ProbeConfig, settings, where="recipe.probe")
    assert (config.every, config.faces, config.patience) == (500, 4, 1000)
    with pytest.raises(ConfigError, match=r"probe\.faces: 1 is not from 2"):
        from_dict(ProbeConfig, settings | {"faces": 1}, where="recipe.probe")
    with pytest.raises(ConfigError, match=r"probe\.every: -1"):
        from_dict(ProbeConfig, settings | {"every": -1}, where="recipe.probe")


def test_reports_compare_without_their_pictures() -> None:
    numbers: dict[str, Any] = {"gained": 0.1, "left": 0.2, "top1": 0.3, "changed": 0.1}
    numbers |= {"retrieval": 0.25, "reconstruction": 0.5}
    one, two = (ProbeReport(step=1, preview=torch.rand(3, 2, 2), **numbers) for _ in range(2))
    assert one == two
    assert one.score == 0.75


def test_samplers_get_the_meshes_of_the_panel() -> None:
    known = faces()
    known.mesh = torch.rand(len(known.people), 478, 2)
    seen: list[tuple[Tensor, Tensor]] = []

    def sample(generator: Any, inputs: SwapInputs, *, rng: torch.Generator | None = None) -> Tensor:
        assert inputs.source_mesh is not None
        assert inputs.target_mesh is not None
        seen.append((inputs.source_mesh, inputs.target_mesh))
        return inputs.target

    probe = SwapProbe(known, config=ProbeConfig(faces=3), sampler=sample, encoder=encoder())  # type: ignore[arg-type]
    probe(COPY, 1)
    sources, targets = (torch.cat(meshes) for meshes in zip(*seen, strict=True))
    panel = known.mesh[probe.panel]
    torch.testing.assert_close(sources, panel.repeat_interleave(3, 0))
    torch.testing.assert_close(targets, panel.repeat(3, 1, 1))
