"""Networks that come as a list of operations, run by torch.

The operations are those of OpenVINO's first set (``opset1``) that a convolutional recogniser needs,
with its attributes (docs.openvino.ai, "Operation Sets"). Code: written for facke from that
documentation. What an operation asks for and this does not have is refused, never approximated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facke_core.errors import VerificationError

__all__: list[str] = []

LARGEST = 2**24
"""Most numbers in what an operation computes for one picture."""
WIDEST, PADDED = 1024, 32
"""Largest stride, dilation or kernel, and largest padding."""


class Operation(NamedTuple):
    """One operation of a network."""

    kind: str
    """Its type, such as ``Convolution``."""
    name: str
    """What it computes is called so, and read under this name."""
    inputs: tuple[str, ...]
    """Names of other operations or of constants."""
    attributes: Mapping[str, str] = {}
    """Its settings, as they are written."""


class OperationNetwork(nn.Module):
    """A network with one input, ``Parameter``, and one output, ``Result``.

    Args:
        operations: in the order in which they are computed.
        constants: tensors that operations read, by name.
        input_size: size (C, H, W) of the pictures that come in.
        source: where they come from, for messages.
        sizes: sizes that the file says of what operations compute for one picture, by name.

    Raises:
        VerificationError: an operation, or a setting of one, that is not known here, or sizes that
            do not fit together.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        constants: Mapping[str, Tensor],
        *,
        input_size: tuple[int, int, int],
        source: str,
        sizes: Mapping[str, Sequence[int]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        for operation in operations:
            _check(operation, source)
        for kind in ("Parameter", "Result"):
            if (n := sum(operation.kind == kind for operation in operations)) != 1:
                raise VerificationError(f"{source} has {n} operations {kind!r} where one belongs.")
        self.operations = tuple(operations)
        self._names = {name: f"constant{i}" for i, name in enumerate(constants)}
        for name, tensor in constants.items():
            parameter = nn.Parameter(tensor.float().contiguous(), requires_grad=False)
            self.register_parameter(self._names[name], parameter)
        self._fits(input_size, sizes, source)

    def _fits(
        self, input_size: tuple[int, int, int], sizes: Mapping[str, Sequence[int]], source: str
    ) -> None:
        """Compute all sizes, which takes no memory, and refuse what would take too much."""
        known = {name: tensor.to("meta") for name, tensor in self.constants().items()}
        picture = torch.empty((1, *input_size), device="meta")
        for operation in self.operations:
            try:
                known[operation.name] = computed = compute(operation, known, picture)
            except KeyError as error:
                raise VerificationError(
                    f"{source}: the operation {operation.name!r} reads {error}, which was not "
                    "computed before it. The file is damaged: get it again."
                ) from error
            except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
                raise VerificationError(
                    f"{source}: the {operation.kind} {operation.name!r} does not fit its inputs "
                    f"({error}). The file is damaged: get it again."
                ) from error
            if (told := sizes.get(operation.name, computed.shape)) != computed.shape:
                raise VerificationError(
                    f"{source}: the {operation.kind} {operation.name!r} makes a tensor of "
                    f"{tuple(computed.shape)}, not of {tuple(told)}. The file is damaged: get it "
                    "again."
                )
            if math.prod(computed.shape) > LARGEST:
                raise VerificationError(
                    f"{source}: the {operation.kind} {operation.name!r} makes a tensor of "
                    f"{tuple(computed.shape)}, far larger than any of a recogniser. The file is "
                    "damaged: get it again."
                )

    def constants(self) -> dict[str, Tensor]:
        """The tensors that operations read, by name."""
        return {name: self.get_parameter(own) for name, own in self._names.items()}

    def forward(self, picture: Tensor) -> Tensor:
        """What ``Result`` holds for pictures (B, C, H, W)."""
        known = self.constants()
        result = picture
        for operation in self.operations:
            known[operation.name] = computed = compute(operation, known, picture)
            if operation.kind == "Result":
                result = computed
        return result


def compute(operation: Operation, known: Mapping[str, Tensor], picture: Tensor) -> Tensor:
    inputs = [known[name] for name in operation.inputs]
    if operation.kind == "Parameter":
        return picture
    return _KINDS[operation.kind].run(inputs, operation.attributes)


# -- operations ------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    inputs: int
    """Number of its inputs."""
    run: Callable[[Sequence[Tensor], Mapping[str, str]], Tensor]
    settings: Mapping[str, str | tuple[int, int]] = {}
    """Name of a setting -> the only value that is known here, or the least and largest number of a
    pair of numbers."""
    needs: tuple[str, ...] = ()
    """Settings without which it makes no sense."""


def _convolution(inputs: Sequence[Tensor], settings: Mapping[str, str]) -> Tensor:
    """Convolution of data (B, C, H, W) by weights (O, C, h, w), or of G groups by (G, O, C, h, w).

    It is a cross-correlation, as in torch.
    """
    x, weight = inputs
    groups = 1
    if weight.dim() == 5:
        groups, weight = weight.shape[0], weight.flatten(0, 1)
    above, left = _pair(settings["pads_begin"])
    below, right = _pair(settings["pads_end"])
    stride, dilation = _pair(settings["strides"]), _pair(settings["dilations"])
    return F.conv2d(
        F.pad(x, (left, right, above, below)), weight, None, stride, 0, dilation, groups
    )


def _average(inputs: Sequence[Tensor], settings: Mapping[str, str]) -> Tensor:
    return F.avg_pool2d(inputs[0], _pair(settings["kernel"]), _pair(settings["strides"]))


_SLIDING: dict[str, str | tuple[int, int]] = {
    "strides": (1, WIDEST),
    "dilations": (1, WIDEST),
    "pads_begin": (0, PADDED),
    "pads_end": (0, PADDED),
    "auto_pad": "explicit",
    "output_padding": "0,0",  # written by old versions, and read by none
}
_WHERE = ("strides", "dilations", "pads_begin", "pads_end")
_BROADCAST: dict[str, str | tuple[int, int]] = {"auto_broadcast": "numpy"}
_KINDS = {
    "Parameter": _Kind(0, lambda i, _: i[0]),
    "Result": _Kind(1, lambda i, _: i[0]),
    "Add": _Kind(2, lambda i, _: i[0] + i[1], _BROADCAST),
    "Multiply": _Kind(2, lambda i, _: i[0] * i[1], _BROADCAST),
    "Sigmoid": _Kind(1, lambda i, _: torch.sigmoid(i[0])),
    "PReLU": _Kind(2, lambda i, _: F.prelu(i[0], i[1].flatten())),
    "Convolution": _Kind(2, _convolution, _SLIDING, _WHERE),
    "GroupConvolution": _Kind(2, _convolution, _SLIDING, _WHERE),
    "AvgPool": _Kind(
        1,
        _average,
        {
            "kernel": (1, WIDEST),
            "strides": (1, WIDEST),
            "pads_begin": "0,0",
            "pads_end": "0,0",
            "exclude-pad": "true",
            "auto_pad": "explicit",
            "rounding_type": "floor",
        },
        ("kernel", "strides"),
    ),
}


def _pair(text: str) -> tuple[int, int]:
    """Two numbers with a comma between them: of rows and of columns."""
    first, second = text.split(",")
    return int(first), int(second)


def _check(operation: Operation, source: str) -> None:
    about = f"{source}: the operation {operation.name!r}"
    if operation.kind not in _KINDS:
        raise VerificationError(
            f"{about} is a {operation.kind!r}, which facke does not compute. "
            f"It knows {', '.join(_KINDS)}. Use the very file that facke names."
        )
    kind = _KINDS[operation.kind]
    if len(operation.inputs) != kind.inputs:
        raise VerificationError(
            f"{about}, a {operation.kind}, reads {len(operation.inputs)} others, and such one "
            f"reads {kind.inputs}. The file is damaged: get it again."
        )
    if missing := [name for name in kind.needs if name not in operation.attributes]:
        raise VerificationError(
            f"{about} does not say its {', '.join(missing)}. The file is damaged: get it again."
        )
    for name, value in operation.attributes.items():
        if not _allowed(kind.settings.get(name), value):
            raise VerificationError(
                f"{about}, a {operation.kind}, has {name}={value[:40]!r}, which facke does not "
                "compute. Use the very file that facke names."
            )


def _allowed(known: str | tuple[int, int] | None, value: str) -> bool:
    if known is None or isinstance(known, str):
        return known == value.replace(" ", "")
    try:
        return all(known[0] <= number <= known[1] for number in _pair(value))
    except ValueError:
        return False
