"""``locate`` finds the weights that a name means: of a method, of a Hub repository, in a folder.

torch is not imported here, so that a wrong name fails at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from facke_core.errors import PluginError, UnknownNameError, UsageError, WeightsError, did_you_mean
from facke_core.plugins.registry import Registry, default_registry
from facke_core.plugins.specs import MethodSpec
from facke_core.references import Bundled, HubRef, resource
from facke_core.weights import checkpoints, hub, layout
from facke_core.weights.layout import MODEL, WeightsConfig

__all__ = ["Source", "locate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One set of weights, found: what :func:`facke_core.load` loads, and what reports name.

    It can be sent to another machine. :func:`locate` finds the same weights there, and
    :func:`facke_core.load` refuses tensors whose digest is not that of :attr:`config`.
    """

    config: WeightsConfig
    """The content of their ``config.json``."""
    folder: Path | None
    """Absolute path of the folder with ``config.json`` and the tensors; None for a method without
    weights."""
    name: str
    """What results call them: ``simswap.mini``, ``hf:org/repo``, or the name of a folder; empty
    for a method without weights."""
    revision: str
    """The commit on the Hub, or the first 12 digits of the SHA-256 of the tensors; empty without
    weights."""
    origin: hub.HubLocation | Bundled | None = None
    """What :attr:`folder` is a local copy of: a commit on the Hub, or what lies in a plugin; None
    where it is the original."""


def locate(
    name: str | os.PathLike[str] | Source,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    registry: Registry | None = None,
) -> Source:
    """Find the weights that ``name`` means, as in :func:`facke_core.load`; fetch them if need be.

    A :class:`Source` stays what it is: its configuration is not read again, and a branch on the Hub
    is not asked again for its commit. On another machine than the one where it was found, its
    folder is the one there.

    Args:
        name: a method, ``METHOD.TAG``, ``hf:org/repo@revision``, a path, or a Source.
        revision: branch, tag or commit on the Hub, instead of the pinned or default one.
        local_files_only: never contact the Hub.
        registry: where names are looked up; default: everything installed.

    Raises:
        UnknownNameError: no method of that name, or it has no such weights.
        UsageError: ``name`` can mean two things, or the revision does not fit it.
        WeightsError: there is no such folder, or what is in it is no set of weights.
        ConfigError: its configuration has unknown keys or wrong types.
        UnavailableError: the Hub cannot be reached.
    """
    registry = registry or default_registry()
    if isinstance(name, Source):
        return _on_this_machine(name, revision, local_files_only)
    text = os.fspath(name)
    if not isinstance(name, str) or _is_path(text):
        return _in_folder(Path(os.path.expanduser(text)), revision)
    if text.startswith(hub.PREFIX):
        location = hub.parse_reference(text, revision)
        return _on_hub(location, f"hf:{location.repo_id}", local_files_only)
    spec, tag = _named(text, registry)
    return _of_method(spec, tag, revision, local_files_only, registry)


def hub_location(
    name: str, *, revision: str | None = None, registry: Registry | None = None
) -> hub.HubLocation | None:
    """Return the place on the Hub that ``name`` means; None for a folder and what plugins bring.

    Raises:
        UnknownNameError, UsageError, WeightsError: see :func:`locate`.
    """
    if _is_path(name):
        return None
    if name.startswith(hub.PREFIX):
        return hub.parse_reference(name, revision)
    spec, tag = _named(name, registry or default_registry())
    where = spec.weights.get(tag or next(iter(spec.weights), ""))
    if isinstance(where, HubRef):
        return hub.HubLocation(where.repo_id, revision or where.revision)
    return None


def _on_this_machine(source: Source, revision: str | None, local_files_only: bool) -> Source:
    if revision and revision != source.revision:
        raise UsageError(
            f"{source.name or source.config.method} was found at the revision "
            f"{source.revision!r}, but revision={revision!r} was given too. Leave it out."
        )
    if isinstance(source.origin, hub.HubLocation):
        fetched = hub.fetch(source.origin, [MODEL], local_files_only=local_files_only)
        return replace(source, folder=fetched.folder)
    if isinstance(source.origin, Bundled):
        return replace(source, folder=resource(source.origin.resource))
    return source


def _named(text: str, registry: Registry) -> tuple[MethodSpec, str]:
    """Read ``METHOD.TAG``: the method, and the tag of its weights or ``""``."""
    layout.refuse_foreign(Path(text))
    if "/" in text or os.sep in text:
        raise UsageError(
            f"{text!r} can mean two things. Write hf:{text} for the Hub, or ./{text} for a folder."
        )
    method, _, tag = text.partition(".")
    try:
        spec = registry.methods[method]
    except UnknownNameError as error:
        if Path(text).is_dir():
            raise UnknownNameError(f"{error} For the folder {text!r} write ./{text}.") from error
        raise
    if tag and tag not in spec.weights:
        known = ", ".join(spec.weights) or "none"
        raise UnknownNameError(
            f"Unknown weights {tag!r} of the method {spec.name!r}.{did_you_mean(tag, spec.weights)}"
            f" Known: {known}. Others can be given as hf:org/repo or ./folder."
        )
    return spec, tag


def _is_path(text: str) -> bool:
    return (
        text.startswith(("./", "../", "~", ".\\", "..\\"))
        or text in (".", "..")
        or (Path(text).is_absolute())
    )


def _in_folder(folder: Path, revision: str | None) -> Source:
    if revision:
        raise UsageError(
            f"revision={revision!r} has no meaning for the folder {folder}. Leave it out."
        )
    label = folder.resolve().name
    if not (folder / layout.CONFIG).is_file() and (saved := checkpoints.complete(folder)):
        folder = saved[-1]
    config = layout.read_weights_config(folder)
    # results name the folder only: a full path would tell who made them, and where
    return Source(config=config, folder=folder.absolute(), name=label, revision=_digest(config))


def _on_hub(location: hub.HubLocation, label: str, local_files_only: bool) -> Source:
    fetched = hub.fetch(location, [layout.CONFIG], local_files_only=local_files_only)
    config = layout.read_weights_config(fetched.folder)
    commit = fetched.commit or location.revision or ""
    location = location._replace(revision=commit or None)
    fetched = hub.fetch(location, [MODEL], local_files_only=local_files_only)
    return Source(
        config=config, folder=fetched.folder, name=label, revision=commit, origin=location
    )


def _of_method(
    spec: MethodSpec, tag: str, revision: str | None, local_files_only: bool, registry: Registry
) -> Source:
    if not spec.weights:
        if spec.default_config is None:
            raise WeightsError(
                f"The method {spec.name!r} comes without weights. "
                "Give some: hf:org/repo, or ./folder as written by `facke train`."
            )
        if revision:
            raise UsageError(f"The method {spec.name!r} has no weights, so no revision either.")
        config = WeightsConfig(method=spec.name, generator=spec.default_config, alignment={})
        return Source(config=config, folder=None, name="", revision="")
    tag = tag or next(iter(spec.weights))
    where = spec.weights[tag]
    label = f"{spec.name}.{tag}"
    if isinstance(where, HubRef):
        location = hub.HubLocation(where.repo_id, revision or where.revision)
        source = _on_hub(location, label, local_files_only)
    else:
        source = _bundled(where, label, revision)
    if source.config.method != spec.name:
        raise PluginError(
            f"The plugin {registry.methods.owners[spec.name]!r} gives weights of the method "
            f"{source.config.method!r} for {label!r}. Report this to its authors."
        )
    return source


def _bundled(where: Bundled, label: str, revision: str | None) -> Source:
    if revision:
        raise UsageError(f"{label} lies inside its plugin, so revision={revision!r} cannot be had.")
    folder = resource(where.resource)
    config = layout.read_weights_config(folder)
    return Source(config=config, folder=folder, name=label, revision=_digest(config), origin=where)


def _digest(config: WeightsConfig) -> str:
    return config.files[MODEL].sha256[:12] if MODEL in config.files else ""
