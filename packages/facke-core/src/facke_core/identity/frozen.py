"""The base of all identity encoders: they measure and never learn."""

from __future__ import annotations

from torch import nn

from facke_core.types import IdentityEncoderSpec

__all__ = ["FrozenEncoder"]


class FrozenEncoder(nn.Module):
    """An encoder whose parameters take no gradient and which stays in evaluation mode for good.

    Gradients still reach the input, so an encoder can stand inside a loss.
    """

    def __init__(self, network: nn.Module, spec: IdentityEncoderSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenEncoder:
        """Stay in evaluation mode whatever ``mode`` is: dropout and batch statistics have no place
        in a measure."""
        super().train(False)
        return self
