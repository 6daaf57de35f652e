"""The inventory of weights on this machine, and what their licences say. torch is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facke_core.errors import FackeError, UnavailableError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import MethodSpec
from facke_core.references import Bundled, HubRef, resource
from facke_core.weights import hub, licenses
from facke_core.weights.layout import WeightsConfig, read_weights_config
from facke_core.weights.licenses import Part
from facke_core.weights.sources import locate

__all__ = ["KnownWeights", "best_method", "known_weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWeights:
    """A set of weights, and what is known of it."""

    weights: str
    """The name that ``load`` takes: ``simswap.mini``, ``hf:org/repo@COMMIT``, ``./folder``."""
    method: str
    """Name of the method; empty where they cannot be read."""
    where: Literal["bundled", "cache", "hub", "folder"]
    """The place where they lie. ``hub``: a method names them, and they have not been fetched."""
    megabytes: float | None
    """Size of the files that are here, in 10^6 bytes; None: none are."""
    parts: tuple[Part, ...]
    """The weights themselves first, then the encoder and the detectors that they are used with."""
    fault: str = ""
    """Why they cannot be read; empty where they can."""

    @property
    def license(self) -> str:
        """SPDX identifier of the licence of the weights themselves; empty: not stated."""
        return self.parts[0].license

    @property
    def kind(self) -> str:
        """The class (:data:`facke_core.weights.licenses.CLASSES`) of the weights themselves."""
        return self.parts[0].kind


def best_method(*, registry: Registry | None = None) -> str:
    """The name of the method with the highest rank, as plugins state it, of those that need no
    network; of equals the first.

    Raises:
        UnavailableError: there is none.
    """
    methods = (registry or default_registry()).methods
    ready = [spec for spec in methods.values() if spec.rank > 0 and _is_here(spec)]
    if not ready:
        raise UnavailableError(
            "No method that swaps faces is installed. Run `pip install facke-gan`, or name one of "
            f"those that are: {', '.join(methods) or 'none'}."
        )
    return max(ready, key=lambda spec: spec.rank).name


def _is_here(spec: MethodSpec) -> bool:
    """Tell whether the method needs no weights, or its default ones came with it."""
    default = next(iter(spec.weights.values()), None)
    return isinstance(default, Bundled) or (default is None and spec.default_config is not None)


def known_weights(
    folders: Sequence[Path] = (), *, registry: Registry | None = None
) -> list[KnownWeights]:
    """List the weights of installed methods, those in the cache of the Hub, those in ``folders``.

    Nothing is fetched, and tensors are not read.

    Args:
        folders: folders of weights, or runs.
        registry: whose methods are meant; default: everything installed.

    Raises:
        FackeError: one of ``folders`` holds no weights.
        UnavailableError: the cache of the Hub cannot be read.
    """
    registry = registry or default_registry()
    cached = {(repo, commit): folder for repo, commit, folder in hub.cached()}
    sets = []
    for spec in registry.methods.values():
        for tag, where in spec.weights.items():
            sets.append(_of_method(spec, tag, where, cached, registry))
    for (repo, commit), folder in cached.items():
        sets.append(_known(f"hf:{repo}@{commit}", folder, "cache", registry))
    for folder in folders:
        source = locate(folder, registry=registry)
        label = str(folder) if folder.is_absolute() else f"./{folder}"
        sets.append(_row(label, source.config, source.folder, "folder", registry))
    return sets


def not_allowed(found: Iterable[KnownWeights], limit: str) -> Iterator[tuple[KnownWeights, Part]]:
    """Yield the parts whose licence is of the class ``limit``, or asks for more care."""
    for known in found:
        for part in known.parts:
            if licenses.at_least(part.kind, limit):
                yield known, part


def _of_method(
    spec: MethodSpec,
    tag: str,
    where: Bundled | HubRef,
    cached: dict[tuple[str, str], Path],
    registry: Registry,
) -> KnownWeights:
    name = f"{spec.name}.{tag}"
    stated = spec.license if tag == next(iter(spec.weights)) else ""
    if isinstance(where, HubRef):
        folder = cached.get((where.repo_id, where.revision))
        if folder is None:
            unseen = WeightsConfig(method=spec.name, alignment={})
            return _row(name, unseen, None, "hub", registry, stated)
        return _known(name, folder, "cache", registry, stated)
    try:
        folder = resource(where.resource)
    except FackeError as error:
        return _broken(name, "bundled", error)
    return _known(name, folder, "bundled", registry, stated)


def _known(
    name: str,
    folder: Path,
    where: Literal["bundled", "cache"],
    registry: Registry,
    stated: str = "",
) -> KnownWeights:
    try:
        config = read_weights_config(folder)
    except FackeError as error:
        return _broken(name, where, error)
    return _row(name, config, folder, where, registry, stated)


def _row(
    name: str,
    config: WeightsConfig,
    folder: Path | None,
    where: Literal["bundled", "cache", "hub", "folder"],
    registry: Registry,
    stated: str = "",
) -> KnownWeights:
    sizes = [
        (folder / file).stat().st_size
        for file in config.files
        if folder is not None and (folder / file).is_file()
    ]
    return KnownWeights(
        weights=name,
        method=config.method,
        where=where,
        megabytes=round(sum(sizes) / 1e6, 1) if sizes else None,
        parts=licenses.parts_of(config, name, registry, stated=stated),
    )


def _broken(name: str, where: Literal["bundled", "cache"], error: FackeError) -> KnownWeights:
    nothing = Part("weights", name, "")
    return KnownWeights(
        weights=name, method="", where=where, megabytes=None, parts=(nothing,), fault=str(error)
    )
