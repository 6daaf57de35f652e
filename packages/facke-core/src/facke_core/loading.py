"""From a name to a pipeline, and back to a folder: ``load``, ``load_encoder``, ``save``."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from facke_core import hub, weights
from facke_core.backends.choice import with_backend
from facke_core.card import model_card
from facke_core.config import from_dict, updated
from facke_core.devices import resolve_device
from facke_core.errors import (
    ConfigError,
    FackeError,
    PluginError,
    UnavailableError,
    UsageError,
    WeightsError,
    did_you_mean,
)
from facke_core.faces.align import Alignment
from facke_core.faces.detect import make_detector
from facke_core.licenses import announce
from facke_core.methods import Method
from facke_core.pipeline import SwapPipeline
from facke_core.protocols import FaceDetector, IdentityEncoder
from facke_core.registry import Registry, default_registry
from facke_core.sources import locate
from facke_core.training.checkpoints import PART
from facke_core.types import Face
from facke_core.weights import MODEL, FormatInfo, WeightsConfig

__all__ = [
    "DEFAULT_ENCODER",
    "LazyDetector",
    "author",
    "build_method",
    "encoder_settings",
    "load",
    "load_encoder",
    "save",
]

DEFAULT_ENCODER = "dlib-resnet29"
DEFAULT_TEMPLATE = "ffhq"
"""The framing of methods that come without weights."""


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    backend: str = "torch",
    sampler: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    registry: Registry | None = None,
) -> SwapPipeline:
    """Build a face-swapping pipeline.

    Args:
        name: a registered method with its default weights (``"simswap"``) or others of its own
            (``"simswap.TAG"``), a Hub repository (``"hf:org/repo"`` or ``"hf:org/repo@rev"``), or
            a folder (``Path("runs/42")``, ``"./runs/42"``).
        revision: branch, tag or commit on the Hub, instead of the pinned or default one.
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto`` for the fastest there is.
        dtype: of the generator; the identity encoder and the images stay in float32. None is
            float32, or with the backend ``auto`` whatever is fastest.
        backend: what computes the generator: ``torch``; ``onnxruntime`` or ``openvino``, on a CPU;
            or ``auto`` for the fastest of all that is there whose results differ from torch's in
            float32 by at most 2/255 (:func:`facke_core.backends.choice.choose`).
        sampler: settings that override the sampler's, e.g. ``{"steps": 25}``.
        local_files_only: never contact the Hub.
        registry: where names are looked up; default: everything installed.

    Raises:
        UnknownNameError: no such method, encoder or tag.
        ConfigError: a key or value in ``config.json`` or ``sampler`` that does not belong there.
        WeightsError: the weights do not exist or do not fit; VerificationError: they are damaged.
        CompatibilityError: generator, sampler and encoder do not fit together.
        UnavailableError: the device, the network or a dependency is missing.

    Warns:
        LicenseWarning: the weights or their encoder are not under a permissive licence.
    """
    registry = registry or default_registry()
    on = resolve_device(device)
    if on.type == "cpu" and dtype == torch.float16:
        raise UnavailableError(
            "float16 is not usable on a CPU: torch has no fast convolutions for it there, and one "
            "swap takes more than ten minutes. Use bfloat16 or float32, or a GPU."
        )
    source = locate(name, revision=revision, local_files_only=local_files_only, registry=registry)
    config = source.config
    announce(config, weights=source.weights, revision=source.revision, registry=registry)
    method = build_method(config, registry=registry, sampler=sampler or {})
    generator = method.generator
    if isinstance(generator, nn.Module) and source.folder is not None:
        tensors = weights.read_tensors(source.folder, MODEL, config)
        built_by = f"generator settings {dict(config.generator)}"
        weights.fill(generator, tensors, source=source.weights, built_by=built_by)
    generator, choice = with_backend(generator, backend, device=on, dtype=dtype)
    method = method._replace(generator=generator)
    size = generator.spec.image_size
    alignment = from_dict(
        Alignment,
        config.alignment or {"template": DEFAULT_TEMPLATE, "size": size},
        where="alignment",
    )
    needs = generator.spec.identity_dim
    wanted = config.identity_encoder or ({"name": DEFAULT_ENCODER} if needs else None)
    encoder = None
    if wanted:
        encoder = load_encoder(
            wanted, device=on, local_files_only=local_files_only, registry=registry
        )
    return SwapPipeline(
        method,
        identity_encoder=encoder,
        detector=LazyDetector(registry),
        alignment=alignment,
        registry=registry,
        source=source,
        device=on,
        choice=choice,
    )


def build_method(
    config: WeightsConfig, *, registry: Registry, sampler: Mapping[str, Any] | None = None
) -> Method:
    """The generator, with fresh weights, and its sampler; torch's random state stays as it was.

    Raises:
        ConfigError: a generator or sampler setting that the method does not know.
        PluginError: the plugin fails.
    """
    spec = registry.method(config.method)
    generator = from_dict(registry.resolve(spec.config), config.generator, where="generator")
    build = registry.resolve(spec.build)
    what = f"method {spec.name!r} from {dict(config.generator)}"
    with _blaming(registry.owner("method", spec.name), what), torch.random.fork_rng(devices=[]):
        method = Method(*build(generator))
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
    """Build an identity encoder: frozen, in float32. Torch's random state stays as it was.

    Args:
        name: a registered encoder (``"dlib-resnet29"``), ``"hf:org/repo@COMMIT"`` for a timm
            encoder on the Hub, or ``{"name": ..., **settings}`` as in ``config.json``.
        device: as in :func:`load`.
        local_files_only: never contact the Hub.
        registry: where names are looked up.

    Raises:
        UnknownNameError: no such encoder.
        ConfigError: a setting that it does not know.
        UnavailableError: it cannot be used here; says why and what to do.
    """
    registry = registry or default_registry()
    settings = encoder_settings(name)
    spec = registry.encoder(settings.pop("name"))
    reason = registry.availability(spec)
    if reason:
        raise UnavailableError(f"The encoder {spec.name!r} cannot be used here: {reason}")
    build = registry.resolve(spec.build)
    parameters = inspect.signature(build).parameters
    if "local_files_only" in parameters:
        settings["local_files_only"] = local_files_only
    _check_settings(spec.name, settings, parameters)
    what = f"encoder {spec.name!r}"
    with _blaming(registry.owner("encoder", spec.name), what), torch.random.fork_rng(devices=[]):
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
                "Write it there, in config.json or the recipe; facke weights convert does so with "
                "--encoder."
            )


def encoder_settings(name: str | Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`load_encoder` takes, as ``{"name": ..., **settings}``."""
    if isinstance(name, str):
        if not name.startswith(hub.PREFIX):
            return {"name": name}
        return {"name": "timm", "model": name}
    if not isinstance(name.get("name"), str):
        raise ConfigError("identity_encoder.name: missing. Add it; expected a string.")
    return dict(name)


class LazyDetector:
    """The best face detector that can be used here, built when the first photo comes.

    Crops need no detector, so building a pipeline needs none either.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._built: FaceDetector | None = None

    def get(self) -> FaceDetector:
        """The detector itself."""
        if self._built is None:
            self._built = make_detector(registry=self._registry)
        return self._built

    @property
    def threshold(self) -> float:
        """The detector's own."""
        return self.get().threshold

    def __call__(self, photo: Tensor) -> list[Face]:
        """Faces of a photo (3, H, W) in [0, 1], largest first."""
        return self.get()(photo)


def save(
    model: Method | SwapPipeline,
    folder: str | os.PathLike[str],
    config: WeightsConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    extra: Mapping[str, nn.Module] | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> WeightsConfig:
    """Write ``config.json``, ``model.safetensors`` and a model card that :func:`load` reads back.

    Golden tensors (:mod:`facke_core.golden`) are added, for ``facke weights verify``.

    Args:
        model: a built method, or a loaded pipeline.
        folder: where to; made if it is missing. Files appear whole, ``config.json`` last.
        config: what to write into ``config.json``; default: the pipeline's own. ``files`` and
            ``facke`` are filled in here.
        dtype: how floating-point tensors are stored.
        extra: further modules, e.g. ``{"discriminator": d}``, for their own safetensors files.
        overwrite: replace weights that lie in ``folder``.

    Returns:
        The configuration as written.

    Raises:
        WeightsError: nothing to save, or the folder holds weights or cannot be written.

    Warns:
        FackeWarning: there are no golden tensors, because the method cannot run here.
    """
    from facke_core.golden import try_golden  # which builds methods with what is above

    method = model.method if isinstance(model, SwapPipeline) else model
    if config is None:
        if not isinstance(model, SwapPipeline) or model.source is None:
            raise UsageError("save() needs config=WeightsConfig(...) for a bare method.")
        config = model.source.config
    if not isinstance(method.generator, nn.Module):
        raise WeightsError(
            f"The generator of {config.method!r} is no torch module: nothing to save."
        )
    folder = Path(folder)
    if (folder / weights.CONFIG).exists() and not overwrite:
        raise WeightsError(f"{folder} holds weights already. Choose another folder or overwrite.")
    modules = {MODEL: method.generator} | {
        f"{name}.safetensors": module for name, module in (extra or {}).items()
    }
    files = weights.write_tensors(folder, modules, config, dtype)
    registry = registry or default_registry()
    header = FormatInfo(written_by=author(config.method, registry))
    config = try_golden(folder, replace(config, files=files, facke=header), registry=registry)
    name = folder.name.removesuffix(PART)  # of a checkpoint that is being written
    (folder / weights.CARD).write_text(model_card(config, folder=name), encoding="utf-8")
    return config


def author(method: str, registry: Registry) -> str:
    """``facke-gan 0.1.0``: the distribution whose plugin owns the method."""
    registry.method(method)
    owner = registry.owner("method", method)
    info = next(info for info in registry.plugins() if info.name == owner)
    return f"{info.distribution or owner} {info.version}".strip()
