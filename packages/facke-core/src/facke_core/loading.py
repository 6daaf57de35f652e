"""``load`` makes a pipeline from a name; :mod:`facke_core.publish.save` writes one to a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from facke_core.backends.choice import with_backend
from facke_core.building import DEFAULT_ENCODER, LazyDetector, build_method, load_encoder
from facke_core.config import from_dict
from facke_core.environment import resolve_device
from facke_core.errors import UnavailableError
from facke_core.faces.templates import Alignment
from facke_core.pipeline import SwapPipeline
from facke_core.plugins.registry import Registry, default_registry
from facke_core.types import Blend
from facke_core.weights import layout
from facke_core.weights.layout import MODEL
from facke_core.weights.licenses import announce
from facke_core.weights.sources import Source, locate

__all__: list[str] = []

DEFAULT_TEMPLATE = "ffhq"
"""The framing of methods that come without weights."""


def load(
    name: str | os.PathLike[str] | Source,
    *,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    backend: str = "torch",
    sampler: Mapping[str, Any] | None = None,
    blend: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    registry: Registry | None = None,
) -> SwapPipeline:
    """Build a face-swapping pipeline from the name of a method or of weights.

    Weights on the Hub are fetched into its cache. Every file is compared with its digest, and
    nothing in it is executed. Torch's random state stays as it was::

        swapper = load("simswap", device="auto")
        swapper("source.jpg", "target.jpg").save("out.png")

    Args:
        name: a registered method with its default weights (``"simswap"``) or others of its own
            (``"simswap.TAG"``), a Hub repository (``"hf:org/repo"`` or ``"hf:org/repo@rev"``),
            a folder (``Path("runs/42")``, ``"./runs/42"``), or what
            :func:`~facke_core.weights.sources.locate` found.
        revision: branch, tag or commit on the Hub, instead of the pinned or default one.
        device: ``cpu``, ``cuda``, ``cuda:N``, ``mps``, or ``auto`` for the fastest there is.
        dtype: of the generator; the identity encoder and the images stay in float32. None is
            float32, or with the backend ``auto`` whatever is fastest.
        backend: what computes the generator: ``torch``; ``onnxruntime`` or ``openvino``, on a CPU;
            or ``auto`` for the fastest of all that is there whose results differ from torch's in
            float32 by at most 2/255 (:func:`facke_core.backends.choice.choose`).
        sampler: settings that override the sampler's, e.g. ``{"steps": 25}``.
        blend: settings of how faces are put into photos, e.g. ``{"occlusion": False}``
            (:class:`~facke_core.types.Blend`).
        local_files_only: never contact the Hub.
        registry: where names are looked up; default: everything installed.

    Returns:
        A pipeline: ``pipeline(source, target)`` gives a :class:`~facke_core.results.SwapResult`.

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
    announce(config, name=source.name, revision=source.revision, registry=registry)
    read = partial(layout.read_tensors, source.folder, MODEL, config) if source.folder else None
    method = build_method(
        config, registry=registry, sampler=sampler or {}, read=read, source=source.name
    )
    generator, choice = with_backend(method.generator, backend, device=on, dtype=dtype)
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
        blend=from_dict(Blend, blend or {}, where="blend"),
    )
