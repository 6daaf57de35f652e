"""Means, intervals, areas, Fréchet distances, poses and ranks: against values known otherwise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from facke_core.errors import DataError
from facke_core.evaluation.attributes import expression_error
from facke_core.evaluation.facke2022 import as_published
from facke_core.evaluation.metrics import Identities, rank_of_source
from facke_core.evaluation.metrics import SwappedPairs as Pairs
from facke_core.evaluation.scan import thinned, winners
from facke_core.evaluation.statistics import estimate, frechet_distance, verification_auc
from facke_core.faces.mesh import MIRROR, POINTS
from facke_core.faces.pose import angle_between, expression, head_pose, mean_face
from facke_core.plugins.registry import default_registry
from facke_core.types import Face


def names(n: int, m: int) -> tuple[list[str], list[str]]:
    sources, targets = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
    return [f"s{i}" for i in sources.ravel()], [f"t{j}" for j in targets.ravel()]


def test_the_mean_is_exact_and_the_interval_has_no_order() -> None:
    rng = np.random.default_rng(0)
    values = [float(x) for x in rng.normal(size=30)]
    sources, targets = names(5, 6)
    found = estimate(values, sources, targets)
    order = rng.permutation(30)
    again = estimate(
        [values[i] for i in order], [sources[i] for i in order], [targets[i] for i in order]
    )
    assert found == again
    assert found.value == math.fsum(values) / 30
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_the_interval_knows_that_pairs_share_their_people() -> None:
    """20 x 20 pairs whose value is their source's: as uncertain as 20 values, not as 400."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=20)
    sources, targets = names(20, 20)
    values = [float(x) for x in np.repeat(own, 20)]
    found = estimate(values, sources, targets)
    assert found.low is not None
    assert found.high is not None
    expected = 2 * 1.96 * own.std() / math.sqrt(20)
    assert found.high - found.low == pytest.approx(expected, rel=0.15)


def test_missing_values_are_left_out_and_counted() -> None:
    found = estimate([1.0, None, 3.0, 4.0], ["a", "a", "b", "b"], ["c", "d", "c", "d"])
    assert (found.n, found.missing) == (3, 1)
    assert found.value == pytest.approx(8 / 3)
    assert estimate([None], ["a"], ["b"]).value is None
    assert estimate([1.0, 2.0], ["a", "a"], ["b", "c"]).low is None


def test_the_area_counts_the_pairs_in_the_right_order() -> None:
    assert verification_auc([0.9, 0.8], [0.1, 0.2]) == 1
    assert verification_auc([0.5], [0.5]) == 0.5
    assert verification_auc([], [1.0]) is None
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 1, 40).round(1), rng.normal(0, 1, 50).round(1)
    expected = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert verification_auc(list(a), list(b)) == pytest.approx(expected)


def test_frechet_is_that_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 3))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.array([1, 2, 2])) == pytest.approx(9)
    # scaling all axes by s: (s - 1)^2 times the trace of the covariance
    trace = np.trace(np.cov(x.T))
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * trace)
    # covariances that do not commute, against the general square root
    from scipy.linalg import sqrtm

    a, b = x @ rng.normal(size=(3, 3)), x @ rng.normal(size=(3, 3))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.real(sqrtm(cov_a @ cov_b))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected)


# -- heads -----------------------------------------------------------------------------------------


def turned(yaw: float, pitch: float, roll: float) -> torch.Tensor:
    y, p, r = (math.radians(v) for v in (yaw, pitch, roll))
    about_y = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    about_x = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    about_z = [[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]]
    x, y_, z = (torch.tensor(v, dtype=torch.float64) for v in (about_x, about_y, about_z))
    return z @ y_ @ x


def face(rotation: torch.Tensor, *, change: torch.Tensor | None = None, mesh: bool = True) -> Face:
    """The mean face, turned, 60 pixels between the irises."""
    points = torch.zeros(478, 2, dtype=torch.float64)
    model = mean_face() if change is None else mean_face() + change
    points[list(POINTS)] = 60 * (model @ rotation.T)[:, :2] + torch.tensor([200.0, 150.0])
    five = points[[468, 473, 1, 61, 291]]
    return Face(torch.zeros(4), five.float(), 1.0, points.float() if mesh else None)


@pytest.mark.parametrize("mesh", [True, False])
def test_the_pose_of_a_turned_face_is_found(mesh: bool) -> None:
    for angles in ((0, 0, 0), (30, 0, 0), (-40, 10, 5), (15, -20, 60)):
        rotation = turned(*angles)
        pose = head_pose(face(rotation, mesh=mesh))
        assert torch.allclose(pose.rotation, rotation, atol=1e-4), angles
        assert pose.scale == pytest.approx(60, rel=1e-4)


def test_the_angle_between_poses_is_in_degrees() -> None:
    straight = head_pose(face(turned(0, 0, 0)))
    for degrees in (0.001, 1, 25, 60):
        other = head_pose(face(turned(degrees, 0, 0)))
        assert angle_between(straight, other) == pytest.approx(degrees, abs=2e-3)
    assert angle_between(straight, straight) == 0


def test_the_expression_does_not_see_the_pose_but_the_mouth() -> None:
    calm, smile = torch.zeros(len(POINTS), 3, dtype=torch.float64), None
    smile = calm.clone()
    for corner, way in ((61, -1), (291, 1)):
        smile[POINTS.index(corner)] = torch.tensor([0.2 * way, -0.1, 0])
    one = expression(face(turned(0, 0, 0)))
    same = expression(face(turned(35, -10, 20)))
    other = expression(face(turned(35, -10, 20), change=smile))
    assert one is not None
    assert same is not None
    assert other is not None
    assert torch.allclose(one, same, atol=1e-4)
    moved = (other - one).norm(dim=1)
    assert int((moved > 0.01).sum()) == 2
    assert float(moved.max()) == pytest.approx(math.hypot(0.2, 0.1), abs=1e-3)
    assert expression(face(turned(85, 0, 0))) is None
    assert expression(face(turned(0, 0, 0), mesh=False)) is None


def test_the_expression_error_is_in_percent_of_the_eye_distance() -> None:
    change = torch.zeros(len(POINTS), 3, dtype=torch.float64)
    change[POINTS.index(61)] = torch.tensor([0.5, 0, 0])
    a, b = face(turned(0, 0, 0)), face(turned(0, 0, 0), change=change)
    crop = torch.zeros(1, 3, 8, 8)
    pairs = Pairs(source=crop, target=crop, target_faces=[a], result_faces=[b])
    points = len(expression(a))  # type: ignore[arg-type]
    assert float(expression_error()(pairs)) == pytest.approx(50 / points, rel=1e-3)


def test_the_mean_face_is_symmetric_and_one_unit_wide() -> None:
    model = mean_face()
    mirrored = model[list(MIRROR)] * torch.tensor([-1.0, 1, 1])
    assert torch.allclose(model, mirrored, atol=2e-4)
    left, right = (model[POINTS.index(point)] for point in (468, 473))
    assert float((right - left).norm()) == pytest.approx(1, abs=1e-3)
    assert float(model[POINTS.index(1), 2]) < float(left[2])  # the nose is nearer to the camera


# -- identities, selection, scales -----------------------------------------------------------------


def test_ranks_are_of_people_and_ties_count_against_the_source() -> None:
    gallery = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 1]]
    people = torch.tensor([0, 1, 2, 3, 2])  # the vector 1 belongs to two people
    result = torch.nn.functional.normalize(torch.tensor([[0.0, 3, 2, 1]]).double())

    def rank(own: int) -> int:
        nothing = torch.zeros(1, 4)
        seen = Identities(nothing, nothing, result, gallery, people, torch.tensor([own]))
        return int(rank_of_source(seen))

    assert [rank(own) for own in range(4)] == [4, 2, 2, 3]


def test_checkpoints_are_thinned_from_the_end_and_keep_the_first() -> None:
    assert thinned([20, 40, 60, 80, 100], 2) == [20, 60, 100]
    assert thinned([20, 40, 60, 80], 2) == [20, 40, 80]
    assert thinned([20, 40, 60, 80, 100], 10) == [20, 100]
    assert thinned([], 3) == []
    assert thinned([20, 40], 1) == [20, 40]


def test_the_first_of_equal_checkpoints_wins() -> None:
    values = {
        "20": {"id-retrieval": 0.5, "recon-l1-imagenet": 0.2, "sum": 0.7},
        "40": {"id-retrieval": 0.4, "recon-l1-imagenet": 0.3, "sum": 0.7},
        "60": {"id-retrieval": 0.4, "recon-l1-imagenet": 0.4, "sum": 0.8},
    }
    expected = {"id-retrieval": "40", "recon-l1-imagenet": "20", "sum": "20"}
    assert winners(values) == expected
    diverged = dict.fromkeys(expected)
    assert winners({"10": diverged, **values}) == expected
    with pytest.raises(DataError, match="No checkpoint has a value"):
        winners({"10": diverged})


def test_the_published_scale_is_the_mean_over_the_batch_size() -> None:
    values = [0.1 * i for i in range(64)]
    assert as_published(values, 32) == pytest.approx(sum(values) / 64 / 32)
    # a batch that is not full counts as much as a full one
    assert as_published([1.0] * 33, 32) == pytest.approx(2 / 33)


def test_every_metric_can_be_built_and_has_the_name_it_is_registered_by() -> None:
    registry = default_registry()
    for spec in registry.metrics.values():
        metric = registry.resolve(spec.build)()
        assert metric.name == spec.name
        assert metric.higher_is_better == spec.higher_is_better
        assert json.dumps(sorted(metric.needs))
