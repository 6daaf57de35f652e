"""What every identity encoder shares: it measures and never learns."""

from __future__ import annotations

from torch import nn

from facke_core.types import IdentityEncoderSpec


class FrozenEncoder(nn.Module):
    """Base of the encoders: parameters without gradient, evaluation mode for good.

    Gradients still reach the input, so an encoder can stand inside a loss.
    """

    def __init__(self, network: nn.Module, spec: IdentityEncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = network.eval().requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Changes nothing: dropout and batch statistics have no place in a measuring device."""
        return self

    def requires_grad_(self, requires_grad: bool = True) -> FrozenEncoder:
        """Changes nothing: a loop that unfreezes whole models must not train the encoder."""
        return self
