"""Which devices there are, and the one that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from facke_core.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["available_devices", "resolve_device"]


def available_devices() -> list[str]:
    """``cuda:0`` ..., ``mps``, ``cpu``: what torch can compute on here, fastest first."""
    import torch

    devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [*devices, "cpu"]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        UnavailableError: it is not there; nothing else is taken instead.
        UsageError: not the name of a device.
    """
    import torch

    name, there = str(device), available_devices()
    if name == "auto":
        return torch.device(there[0])
    if name == "cuda" and "cuda:0" in there:
        return torch.device("cuda:0")
    if name in there:
        return torch.device(name)
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not index.isdecimal()):
        raise UsageError(
            f"Unknown device {name!r}. Use auto, cpu, cuda, cuda:N or mps; "
            f"here there are: {', '.join(there)}."
        )
    advice = f"Use one of: auto, {', '.join(there)}."
    if kind == "cuda" and "cuda:0" not in there:
        built = f"this torch ({torch.__version__}) was built for CUDA {torch.version.cuda}"
        reason = f"{built}, but finds no GPU; see the driver with nvidia-smi"
        if not torch.version.cuda:
            reason = f"this torch ({torch.__version__}) was built without CUDA"
        advice = f"{reason[0].upper()}{reason[1:]}. {advice}"
    raise UnavailableError(f"The device {name!r} is not available here. {advice}")
