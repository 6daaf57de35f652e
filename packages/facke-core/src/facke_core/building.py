"""Methods, identity encoders and face detectors, built from names and settings."""

from __future__ import annotations

import copyreg
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from facke_core.config import arguments, from_dict, updated
from facke_core.environment import ForkSafeLock, resolve_device
from facke_core.errors import (
    ConfigError,
    FackeError,
    PluginError,
    UnavailableError,
    UsageError,
    did_you_mean,
)
from facke_core.plugins.registry import Registry, default_registry
from facke_core.protocols import FaceDetector, GroupDetector, IdentityEncoder, Method
from facke_core.references import unavailable
from facke_core.types import Face
from facke_core.weights import hub
from facke_core.weights.layout import WeightsConfig, fill
from facke_core.weights.outline import bounded, check_outline

__all__ = ["LazyDetector", "build_method", "make_detector"]

DEFAULT_ENCODER = "dlib-resnet29"
"""Name of the encoder that is taken where none is named; it works offline."""


def build_method(
    config: WeightsConfig,
    *,
    registry: Registry,
    sampler: Mapping[str, Any] | None = None,
    read: Callable[[], Mapping[str, Tensor]] | None = None,
    source: str = "",
) -> Method:
    """Build a generator, with given or fresh weights, and its sampler.

    Fresh weights are drawn from torch's global randomness, whose state stays as it was. Whatever
    the settings ask for, no memory is taken for a network that does not fit the weights.

    Args:
        config: names the method, and has the settings of both.
        registry: where names are looked up.
        sampler: further settings of the sampler, which go before those of ``config``.
        read: gives the generator's whole state, by name, once the settings are known to be sound;
            None: fresh weights.
        source: what these weights are called, for messages.

    Raises:
        UnknownNameError: no such method.
        ConfigError: a generator or sampler setting that the method does not know, or a network
            beyond measure.
        WeightsError: the weights are not those of the generator.
        PluginError: the plugin fails.
    """
    spec = registry.methods[config.method]
    generator = from_dict(registry.resolve(spec.config), config.generator, where="generator")
    build = registry.resolve(spec.build)
    what = f"method {spec.name!r} from {dict(config.generator)}"
    built_by = f"generator settings {dict(config.generator)}"

    def network() -> Any:
        return build(generator)[0]

    with _blaming(registry.methods.owners[spec.name], what), torch.random.fork_rng(devices=[]):
        if read is None:
            bounded(network, built_by=built_by)
            method = Method(*build(generator))
        else:
            tensors = read()
            check_outline(network, tensors, source=source, built_by=built_by)
            method = Method(*build(generator))
            if isinstance(method.generator, nn.Module):
                fill(method.generator, tensors, source=source, built_by=built_by)
    settings = {**config.sampler, **(sampler or {})}
    if settings:
        method = method._replace(sampler=_with_settings(spec.name, method.sampler, settings))
    return method


@contextmanager
def _blaming(plugin: str, what: str) -> Iterator[None]:
    """Name the plugin whose code raises something that is no FackeError."""
    try:
        yield
    except FackeError:
        raise
    except Exception as error:
        raise PluginError(
            f"The plugin {plugin!r} cannot build the {what}: {type(error).__name__}: {error}"
        ) from error


def _with_settings(method: str, sampler: Any, settings: Mapping[str, Any]) -> Any:
    if not getattr(sampler, "__dataclass_fields__", None):
        raise ConfigError(
            f"The method {method!r} has no sampler settings, but {', '.join(settings)} was given. "
            "Leave it out."
        )
    return updated(sampler, settings, where="sampler")


def load_encoder(
    name: str | Mapping[str, Any],
    *,
    device: str | torch.device = "cpu",
    local_files_only: bool = False,
    registry: Registry | None = None,
) -> IdentityEncoder:
    """Build an identity encoder: frozen, in float32. Torch's random state stays as it was::

        encoder = load_encoder("dlib-resnet29")
        identity = encoder(crops)  # (B, 3, H, W), RGB in [0, 1] -> (B, 128), unit norm

    Args:
        name: a registered encoder (``"dlib-resnet29"``), ``"hf:org/repo@COMMIT"`` for a timm
            encoder on the Hub, or ``{"name": ..., **settings}`` as in ``config.json``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        local_files_only: never contact the Hub.
        registry: where names are looked up; default: everything installed.

    Returns:
        The encoder. Crops should be aligned to the template that its ``spec`` names.

    Raises:
        UnknownNameError: no such encoder.
        ConfigError: a setting that it does not know.
        UnavailableError: it cannot be used here; says why and what to do.
    """
    registry = registry or default_registry()
    settings = encoder_settings(name)
    spec = registry.encoders[settings.pop("name")]
    reason = unavailable(spec.available)
    if reason:
        raise UnavailableError(f"The encoder {spec.name!r} cannot be used here: {reason}")
    build = registry.resolve(spec.build)
    parameters = inspect.signature(build).parameters
    if "local_files_only" in parameters:
        settings["local_files_only"] = local_files_only
    _check_settings(spec.name, settings, parameters)
    if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        settings = arguments(build, settings, where="identity_encoder")
    what = f"encoder {spec.name!r}"
    with _blaming(registry.encoders.owners[spec.name], what), torch.random.fork_rng(devices=[]):
        encoder = build(**settings)
    if isinstance(encoder, nn.Module):
        encoder.to(resolve_device(device))
    return cast(IdentityEncoder, encoder)


def _check_settings(
    encoder: str, settings: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Compare settings with the keywords that the encoder's ``build`` takes."""
    known = [key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    for key in settings:
        if key not in known and len(known) == len(parameters):
            raise ConfigError(
                f"identity_encoder.{key}: unknown key.{did_you_mean(key, known)} "
                f"The encoder {encoder!r} knows: {', '.join(known) or 'none'}."
            )
    for key in known:
        if key not in settings and parameters[key].default is inspect.Parameter.empty:
            raise ConfigError(
                f"identity_encoder.{key}: missing. The encoder {encoder!r} cannot do without it. "
                "Write it there, in config.json or the recipe; "
                "`convert(FILE, out=DIR, encoder=ENCODER)` does so."
            )


def encoder_settings(name: str | Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an encoder, ``{"name": ..., **settings}``, in whichever form they are given.

    Args:
        name: as :func:`load_encoder` takes it.

    Raises:
        ConfigError: a mapping without ``name``.
    """
    if isinstance(name, str):
        if not name.startswith(hub.PREFIX):
            return {"name": name}
        return {"name": "timm", "model": name}
    if not isinstance(name.get("name"), str):
        raise ConfigError("identity_encoder.name: missing. Add it; expected a string.")
    return dict(name)


def make_detector(
    name: str | None = None, *, registry: Registry | None = None, **settings: Any
) -> FaceDetector:
    """Build the detector ``name``, or the first registered one that works here.

    Args:
        name: a registered detector.
        registry: where names are looked up.
        settings: keywords of the detector's ``build``.

    Raises:
        UnknownNameError: no such detector.
        UnavailableError: it, or every detector, lacks something; says what to install.
    """
    registry = registry or default_registry()
    specs = [registry.detectors[key] for key in ([name] if name else registry.detectors)]
    reasons = []
    for spec in specs:
        reason = unavailable(spec.available)
        if not reason:
            detector: FaceDetector = registry.resolve(spec.build)(**settings)
            return detector
        reasons.append(f"{spec.name}: {reason}")
    listed = "; ".join(reasons) or 'none is installed. Run: pip install "facke-core[faces]"'
    raise UnavailableError(f"No face detector can be used here. {listed}")


class LazyDetector:
    """The best face detector that can be used here, built when the first photo comes, once.

    Crops need no detector, so building a pipeline needs none either.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._built: FaceDetector | None = None
        self._building = ForkSafeLock()

    def get(self) -> FaceDetector:
        """The detector itself.

        Raises:
            UnavailableError: no detector works here.
        """
        with self._building:
            if self._built is None:
                self._built = make_detector(registry=self._registry)
            return self._built

    @property
    def threshold(self) -> float:
        """The threshold of the detector, which is built for it."""
        return self.get().threshold

    def __call__(self, photo: Tensor) -> list[Face]:
        """The faces of a photo (3, H, W) in [0, 1], largest first.

        Raises:
            UnavailableError: no detector works here.
        """
        return self.get()(photo)

    def all_faces(self, photo: Tensor) -> list[Face]:
        """The same, with small faces beside larger ones, if the detector can look for them.

        Raises:
            UnavailableError: no detector works here.
        """
        return every_face(self.get(), photo)

    def glance(self, photo: Tensor) -> list[Face]:
        """The same at one look, if the detector can do with one.

        Raises:
            UnavailableError: no detector works here.
        """
        return glanced(self.get(), photo)

    def close(self) -> None:
        """Free what the detector holds; a later photo builds it again."""
        with self._building:
            built, self._built = self._built, None
        if built is not None:
            close_detector(built)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._registry,)


def every_face(detector: FaceDetector, photo: Tensor) -> list[Face]:
    """All faces of a photo that a detector can find, largest first."""
    return detector.all_faces(photo) if isinstance(detector, GroupDetector) else detector(photo)


def glanced(detector: FaceDetector, photo: Tensor) -> list[Face]:
    """The faces of a photo that a detector finds at one look, if it can do with one."""
    glance = getattr(detector, "glance", detector)
    faces: list[Face] = glance(photo)
    return faces


def close_detector(detector: FaceDetector) -> None:
    """Free what a detector holds, if it says how: by ``close()``."""
    close = getattr(detector, "close", None)
    if callable(close):
        close()


def _pickled(registry: Registry) -> tuple[Any, ...]:
    if registry is not default_registry():
        raise UsageError(
            "A registry that was filled by hand cannot be pickled or copied: its plugins are "
            "modules of this process. Fill one in the other process, or use what is installed."
        )
    return default_registry, ()


copyreg.pickle(Registry, _pickled)
