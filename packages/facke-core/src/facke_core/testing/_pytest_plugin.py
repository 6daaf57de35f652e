"""Fixtures for the tests of plugins; pytest loads this module by itself.

It is loaded in every run of pytest in an environment that has facke-core, so it does nothing but
define fixtures, and imports what they need inside them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from facke_core.plugins.registry import Registry
    from facke_core.testing.fakes import TinyEncoder


@pytest.fixture
def facke_registry() -> Registry:
    """An empty registry that refuses discovery: it holds what the test registers, and nothing
    else that happens to be installed."""
    from facke_core.errors import UsageError
    from facke_core.plugins.registry import Registry

    class EmptyRegistry(Registry):
        def discover(self) -> Registry:
            raise UsageError(
                "The registry of a test does not discover what is installed. Register what the "
                "test needs: facke_registry.register(plugin)."
            )

    return EmptyRegistry()


@pytest.fixture
def tiny_encoder() -> TinyEncoder:
    """A small frozen identity encoder with embeddings of 8 numbers."""
    from facke_core.testing.fakes import TinyEncoder

    return TinyEncoder()


@pytest.fixture
def faces() -> Callable[..., Tensor]:
    """The function :func:`facke_core.testing.faces`, which draws crops (B, 3, S, S) in [0, 1]."""
    from facke_core.testing.fakes import faces

    return faces
