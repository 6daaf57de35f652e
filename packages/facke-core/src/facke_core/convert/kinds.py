"""The input and output of a converter; the converters of facke-core itself.

A converter is a function ``(Checkpoint) -> Converted | None``: None where names and shapes are not
those of its network. Plugins name theirs in the hook ``facke_converters``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facke_core.errors import ConfigError
from facke_core.weights.layout import WeightsConfig
from facke_core.weights.outline import check_outline

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AS_SIMSWAP", "Checkpoint", "Converted", "State", "fits"]

State = Mapping[str, "Tensor"]
"""A state dict: name -> tensor."""

AS_SIMSWAP = {"template": "simswap", "border": "zeros", "antialias": False}
"""The alignment of the originals: the best of five templates, black borders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read; nothing of it was executed."""

    path: Path
    parts: Mapping[str, State] = field(default_factory=dict)
    """Network -> its state dict: ``G``, ``D1``, ... of a folder; a single file is the part
    ``""``. The tensors are views on the file."""
    graph: Any = None
    """The ``onnx.ModelProto`` of an ``.onnx`` file, which has no parts."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the generator that the caller gives; they go before what is recognised."""

    def only(self, *names: str) -> State:
        """The state of the one part, if it is a single file or has one of these names; else
        empty."""
        if len(self.parts) != 1:
            return {}
        ((name, state),) = self.parts.items()
        return state if name in ("", *names) else {}

    def no_settings(self) -> None:
        """Refuse :attr:`settings`, for networks that have none.

        Raises:
            ConfigError: there is a setting.
        """
        if self.settings:
            raise ConfigError(
                f"{next(iter(self.settings))}: this network has no settings. Leave `settings` out."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """The content of a folder that is to be written."""

    summary: str
    """Name of the network in a few words."""
    tensors: State = field(default_factory=dict)
    """Tensors of ``model.safetensors``."""
    extra: Mapping[str, State] = field(default_factory=dict)
    """Name of a further file, without its extension -> its tensors."""
    config: WeightsConfig | None = None
    """Configuration of a generator; others get no ``config.json``. An ``identity_encoder`` without
    ``weights`` is completed by ``encoder`` of :func:`~facke_core.convert.run.convert`."""
    encoder: Mapping[str, Any] | None = None
    """Settings of an identity encoder, as :func:`facke_core.load_encoder` takes them, without
    ``weights``."""
    usage: str = ""
    """Line that uses a network that is neither; ``{folder}`` stands for where it lies."""
    license: str = ""
    """SPDX identifier of the licence that the weights came with; empty: not known."""
    notice: str = ""
    """Further facts on the rights to the weights."""
    notes: tuple[str, ...] = ()
    """Facts that names and shapes do not tell, each with the option that states them."""


def fits(build: Callable[[], nn.Module], state: State, *, source: str, built_by: str) -> None:
    """Compare ``state`` with the network that ``build`` makes, without memory for its weights.

    Args:
        build: makes the network.
        state: its supposed tensors.
        source: the origin of the tensors, for messages.
        built_by: the settings that the network follows from, for messages.

    Raises:
        WeightsError: missing or unexpected tensors, or other shapes; or the network becomes so
            large that it is another one.
    """
    check_outline(build, state, source=source, built_by=built_by)


# -- facke-core's own ------------------------------------------------------------------------------

_MS1M = (
    "Published with SimSwap (CC BY-NC 4.0, for research); the network's code, "
    "foamliu/InsightFace-v2, is Apache-2.0. Trained on MS-Celeb-1M, which was withdrawn."
)
_CASIA = "MuggleWang/CosFace_pytorch is MIT; trained on CASIA-WebFace, data for research only."


def arcface(checkpoint: Checkpoint) -> Converted | None:
    """Convert ``arcface_checkpoint.tar`` of SimSwap and Facke, a dict or a module."""
    from facke_core.identity.iresnet import arcface_layout

    state = checkpoint.only()
    if "layer1.0.bn0.weight" not in state or "bn3.weight" not in state:
        return None
    checkpoint.no_settings()
    fits(
        lambda: arcface_layout(state), state, source=str(checkpoint.path), built_by="the keys in it"
    )
    depth = sum(name.endswith(".conv2.weight") for name in state)
    se = "with" if any(".se." in name for name in state) else "without"
    return Converted(
        summary=f"ArcFace, an improved ResNet of {depth} blocks {se} squeeze-and-excitation",
        tensors=state,
        encoder={"name": "arcface", "resize": "nearest"},
        license="CC-BY-NC-4.0",
        notice=_MS1M,
    )


def cosface(checkpoint: Checkpoint) -> Converted | None:
    """Convert a CosFace sphere network, plain or pickled."""
    from facke_core.identity.iresnet import SPHERE_LAYERS, cosface_layout

    state = checkpoint.only()
    if "layer1.2.prelu1.weight" not in state:
        return None
    checkpoint.no_settings()
    fits(
        lambda: cosface_layout(state), state, source=str(checkpoint.path), built_by="the keys in it"
    )
    blocks = sum(name.endswith(".conv2.weight") for name in state)
    known = {sum(layers): number for number, layers in SPHERE_LAYERS.items()}
    return Converted(
        summary=f"CosFace sphere{known.get(blocks, '')}, {blocks} blocks",
        tensors=state,
        encoder={"name": "cosface-sphere"},
        license="MIT",
        notice=_CASIA,
        notes=(
            'Facke squeezed its crops for it: "crop_template": "", "resize": "nearest", '
            '"normalize": "imagenet" measures as Facke did.',
        ),
    )
