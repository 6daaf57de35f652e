"""What every identity encoder shares: it measures and never learns."""

from __future__ import annotations

from torch import nn

from facke_core.types import IdentityEncoderSpec

__all__ = ["FrozenEncoder"]


class FrozenEncoder(nn.Module):
    """Base of the encoders: parameters without gradient, evaluation mode for good.

    Gradients still reach the input, so an encoder can stand inside a loss.
    """

    def __init__(self, network: nn.Module, spec: IdentityEncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stays in evaluation mode: dropout and batch statistics have no place in a measure."""
        super().train(False)
        return self
