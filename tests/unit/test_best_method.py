"""Who names no method gets the best that is installed."""

from __future__ import annotations

from typing import Any

import pytest

from facke_core import Bundled, HubRef, MethodSpec
from facke_core.errors import UnavailableError
from facke_core.weights.inventory import best_method
from standins import registry_of

HERE, AWAY = Bundled("somewhere:weights"), HubRef("org/repo", revision="0" * 40)


def method(name: str, rank: int, **more: Any) -> MethodSpec:
    return MethodSpec(name=name, summary="s", config="a:B", build="a:c", rank=rank, **more)


def best(*methods: MethodSpec) -> str:
    return best_method(registry=registry_of("many", facke_methods=lambda: list(methods)))


def test_the_highest_rank_wins_and_the_first_of_equals() -> None:
    a, b, c = (method(n, r, weights={"x": HERE}) for n, r in (("a", 1), ("b", 3), ("c", 3)))
    assert best(a, b, c) == "b"


def test_what_needs_the_network_or_lacks_weights_or_has_no_rank_is_not_taken() -> None:
    plain = method("plain", 1, weights={"x": HERE})
    away = method("away", 9, weights={"x": AWAY, "y": HERE})
    untrained = method("untrained", 9)
    silent = method("silent", 0, weights={"x": HERE})
    bare = method("bare", 2, default_config={})
    assert best(plain, away, untrained, silent) == "plain"
    assert best(plain, bare) == "bare"
    with pytest.raises(UnavailableError, match="pip install facke-gan"):
        best(away, untrained, silent)
