"""The face matrix puts every picture where it belongs."""

from __future__ import annotations

import pytest
import torch

from facke_core.errors import UsageError
from facke_core.images.grid import face_matrix, picture_grid


def flat(value: float, height: int = 40, width: int = 40) -> torch.Tensor:
    return torch.full((3, height, width), value)


def test_sources_stand_left_and_targets_on_top() -> None:
    cells: list[list[torch.Tensor | None]] = [
        [flat(0.3), flat(0.4), None],
        [flat(0.5), flat(0.6), flat(0.7)],
    ]
    picture = face_matrix([flat(0.1), flat(0.2)], [flat(0.8), flat(0.9), flat(0.0)], cells, size=20)
    assert picture.shape == (3, 3 * 24 - 4, 4 * 24 - 4)
    middles = picture[0, 10::24, 10::24]
    expected = [[1.0, 0.8, 0.9, 0.0], [0.1, 0.3, 0.4, 1.0], [0.2, 0.5, 0.6, 0.7]]
    assert torch.allclose(middles, torch.tensor(expected), atol=1e-5)


def test_pictures_keep_their_proportions() -> None:
    picture = face_matrix([flat(0.0, 80, 40)], [flat(0.0)], [[flat(0.0)]], size=20)
    row = picture[0, 24 + 10, :20]
    assert torch.equal(row < 0.5, torch.tensor([False] * 5 + [True] * 10 + [False] * 5))


def test_labels_are_drawn_on_the_named_pictures_only() -> None:
    def draw(labels: list[str]) -> torch.Tensor:
        return face_matrix([flat(0.5)], [flat(0.5)], [[flat(0.5)]], size=100, source_labels=labels)

    changed = (draw(["Zoë"]) - draw([])).abs().amax(0) > 0.1
    assert changed[104 + 85 :, :100].any()
    changed[104 + 85 :, :100] = False
    assert not changed.any()


def test_numbers_that_do_not_agree_are_explained() -> None:
    with pytest.raises(UsageError, match=r"2 sources and 1 targets"):
        face_matrix([flat(0), flat(0)], [flat(0)], [[flat(0)]])
    with pytest.raises(UsageError, match="2 target_labels for 1 targets"):
        face_matrix([flat(0)], [flat(0)], [[flat(0)]], target_labels=["a", "b"])


def test_a_grid_puts_pictures_in_rows_with_labels_on_the_first() -> None:
    rows: list[list[torch.Tensor | None]] = [[flat(0.1), None], [flat(0.2), flat(0.3)]]
    picture = picture_grid(rows, size=100, labels=["left", "right"])
    middles = picture[0, 50::104, 50::104]
    assert torch.allclose(middles, torch.tensor([[0.1, 1.0], [0.2, 0.3]]), atol=1e-5)
    assert (picture[0, 91:100, :100] - 0.1).abs().max() > 0.5
    assert (picture[0, 195:, :100] - 0.2).abs().max() < 1e-5, "only the first row is labelled"


def test_a_crooked_grid_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rows of \[1, 2\] and 0 labels"):
        picture_grid([[flat(0)], [flat(0), flat(0)]])
