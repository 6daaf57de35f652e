"""``facke weights convert``: a checkpoint file in, a folder that facke reads out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from facke_core._files import HIDDEN, one_job, sha256_of, write_bytes
from facke_core.building import build_method
from facke_core.config import override
from facke_core.convert.containers import open_checkpoint
from facke_core.convert.graphs import read_graph
from facke_core.convert.kinds import Checkpoint, Converted
from facke_core.convert.modules import state_of
from facke_core.errors import UsageError, WeightsError
from facke_core.plugins.registry import Registry, default_registry
from facke_core.publish.card import escaped, license_lines, model_card, table
from facke_core.publish.golden import try_golden
from facke_core.publish.save import author
from facke_core.weights import layout
from facke_core.weights.hub import PREFIX
from facke_core.weights.layout import CARD, CONFIG, MODEL, FormatInfo, WeightsConfig
from facke_core.weights.pinned import pinned
from facke_core.weights.rewriting import rewriting

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["convert"]

AUTO = "auto"
"""Stands for the kind that names and shapes tell."""
_NET = re.compile(r"(?P<label>.+)_net_(?P<part>[A-Z]\w?)\.pth")
_CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt", ".bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The facts of a conversion, and the use of its result."""

    out: Path
    """Folder that was written."""
    kind: str
    """Name of the converter."""
    summary: str
    """Name of the network in a few words."""
    license: str
    """SPDX identifier of the licence; empty: not known."""
    notice: str
    """Further facts on the rights to the weights."""
    sources: Mapping[str, str]
    """File that was read -> its SHA-256."""
    tensors: int
    """Number of tensors."""
    parameters: int
    """Number of their elements."""
    files: tuple[str, ...]
    """Names of the files that were written."""
    method: str = ""
    """Name of the method, for a generator."""
    encoder: Mapping[str, Any] | None = None
    """Settings for ``identity_encoder`` of a recipe or a ``config.json``, for an encoder."""
    notes: tuple[str, ...] = ()
    """Facts that names and shapes do not tell."""
    usage: str = ""
    """Line that uses the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What ``settings`` of :func:`convert` can change."""

    generator: Mapping[str, Any] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)
    alignment: Mapping[str, Any] = field(default_factory=dict)


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    kind: str = AUTO,
    settings: Sequence[str] = (),
    spdx: str | None = None,
    encoder: str | None = None,
    label: str | None = None,
    force: bool = False,
    registry: Registry | None = None,
) -> Report:
    """Read a checkpoint of another system and write a folder that facke reads.

    Nothing in the file is executed, and no name in it is imported.

    Args:
        path: a file, or the folder of a run with one file per network.
        out: the folder to write; it appears whole.
        kind: name of a converter, or ``auto``: the one that knows the names and shapes.
        settings: ``"generator.KEY=VALUE"``, ``"sampler.KEY=VALUE"``, ``"alignment.KEY=VALUE"``.
        spdx: identifier of the licence, where the one that is known of the kind is not right.
        encoder: the converted identity encoder that conditions the generator: a folder, a
            ``.safetensors`` file or ``hf:org/repo@COMMIT``.
        label: label of the files to take from a run's folder; default: ``latest``, or the only one.
        force: replace weights that lie in ``out``.
        registry: where names are looked up.

    Raises:
        WeightsError: it is not a checkpoint, or of a kind that is not known.
        VerificationError: it is damaged, or made to do harm.
        UsageError, ConfigError: an option that makes no sense.
        DataError: another job is at work on ``out``, or it cannot be written.
    """
    registry = registry or default_registry()
    path, out = Path(path), Path(out)
    with one_job(out, beside=True):
        _check_out(out, force)
        wanted = override({}, *settings, schema=_Settings)
        checkpoint, files = _read(path, label)
        checkpoint = replace(checkpoint, settings=wanted.get("generator", {}))
        kind, converted = _recognised(checkpoint, kind, registry)
        converted = replace(converted, license=converted.license if spdx is None else spdx)
        sources = {str(file.relative_to(path.parent)): sha256_of(file) for file in files}
        origin = {
            "converted from": ", ".join(sources),
            "kind": f"{kind}: {converted.summary}",
            **{f"sha256 of {name}": digest for name, digest in sources.items()},
            **{f"bytes of {file.relative_to(path.parent)}": file.stat().st_size for file in files},
            "licence notice": converted.notice,
        }
        config = converted.config
        if config is not None:
            config = replace(
                config,
                alignment={**config.alignment, **wanted.get("alignment", {})},
                sampler={**config.sampler, **wanted.get("sampler", {})},
                identity_encoder=_with_weights(config, encoder),
                training=origin,
                license=converted.license,
            )
            _check(config, converted, str(path), registry)
            config = replace(config, facke=FormatInfo(written_by=author(config.method, registry)))
        elif encoder or wanted.get("alignment") or wanted.get("sampler"):
            raise UsageError(
                f"{path} holds no generator: `encoder` and `settings` do not apply to it."
            )
        written = _write(out, config, converted, origin, registry)
        usage, settings_of_encoder = _usage(out, config, converted)
        return Report(
            out=out,
            kind=kind,
            summary=converted.summary,
            license=converted.license,
            notice=converted.notice,
            sources=sources,
            tensors=sum(map(len, _states(converted).values())),
            parameters=sum(v.numel() for s in _states(converted).values() for v in s.values()),
            files=written,
            method=config.method if config else "",
            encoder=settings_of_encoder,
            notes=converted.notes,
            usage=usage,
        )


# -- reading -------------------------------------------------------------------------------------


def _read(path: Path, label: str | None) -> tuple[Checkpoint, list[Path]]:
    if path.is_dir():
        try:
            files = _run_files(path, label)
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error}. Check its rights.") from error
        parts = {name: state_of(open_checkpoint(file)) for name, file in files.items()}
        return Checkpoint(path=path, parts=parts), list(files.values())
    if label is not None:
        raise UsageError(
            f"`label` picks files of a run's folder, but {path} is a file. Leave it out."
        )
    if not path.exists():
        raise WeightsError(f"{path} does not exist. Check its name.")
    if path.suffix.lower() == ".safetensors":
        raise WeightsError(f"{path} is a safetensors file already: there is nothing to convert.")
    if path.suffix.lower() == ".onnx":
        return Checkpoint(path=path, graph=read_graph(path)), [path]
    return Checkpoint(path=path, parts={"": state_of(open_checkpoint(path))}), [path]


def _run_files(folder: Path, label: str | None) -> dict[str, Path]:
    """The file of each network of a run: ``G/LABEL.pth`` of Facke, ``LABEL_net_G.pth`` of
    SimSwap."""
    by_part: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := _NET.fullmatch(file.name):
            by_part.setdefault(match["part"], {})[match["label"]] = file
        elif file.is_dir():
            for inner in sorted(file.glob("*.pth")):
                by_part.setdefault(file.name, {})[inner.stem] = inner
    if not by_part:
        raise WeightsError(
            f"{folder} holds no run: neither G/LABEL.pth and the like, nor LABEL_net_G.pth. Give "
            f"one file ({', '.join(_CHECKPOINTS)}, .onnx) or the folder checkpoints/NAME."
        )
    labels = {name for files in by_part.values() for name in files}
    wanted = label or ("latest" if "latest" in labels or len(labels) > 1 else next(iter(labels)))
    chosen = {
        part: files[name]
        for part, files in by_part.items()
        for name in (wanted, f"{wanted}_iter")
        if name in files
    }
    if not chosen:
        raise WeightsError(
            f"{folder} has no files with the label {wanted!r}. It has: "
            f"{', '.join(sorted(labels)[:12])}. Pick one with `label=...`."
        )
    return chosen


def _recognised(checkpoint: Checkpoint, kind: str, registry: Registry) -> tuple[str, Converted]:
    named = kind != AUTO
    everything = registry.converters.values()
    specs = [registry.converters[kind]] if named else [s for s in everything if s.guess]
    matches = {}
    for spec in specs:
        converted = registry.resolve(spec.target)(checkpoint)
        if converted is not None:
            matches[spec.name] = converted
    if len(matches) == 1:
        return next(iter(matches.items()))
    if matches:
        raise UsageError(
            f"{checkpoint.path} could be of several kinds: {', '.join(matches)}. Say which: "
            f"`kind={next(iter(matches))!r}`."
        )
    known = ", ".join(registry.converters)
    raise WeightsError(
        f"{checkpoint.path} is not {'of the kind ' + kind if named else 'of a kind that is known'}:"
        f" {_described(checkpoint)}. Known kinds: {known}; each comes with a plugin."
    )


def _described(checkpoint: Checkpoint) -> str:
    if checkpoint.graph is not None:
        return "it is an ONNX graph"
    said = []
    for part, state in checkpoint.parts.items():
        names = [f"{key[:60]} {tuple(value.shape)}" for key, value in list(state.items())[:3]]
        said.append(f"{f'{part}: ' * bool(part)}{len(state)} tensors, such as {', '.join(names)}")
    return "it has " + "; ".join(said)


def _with_weights(config: WeightsConfig, encoder: str | None) -> Mapping[str, Any] | None:
    settings = config.identity_encoder
    if encoder is None or settings is None:
        if encoder is not None:
            raise UsageError(f"{config.method} takes no identity: leave `encoder` out.")
        return settings
    if encoder.startswith(PREFIX):
        pinned(encoder)
        return {**settings, "weights": encoder}
    path = Path(encoder)
    if not (path.suffix == ".safetensors" if path.is_file() else (path / MODEL).is_file()):
        what = f"holds no {MODEL}" if path.is_dir() else "is no safetensors file"
        raise UsageError(
            f"The encoder {encoder} {what if path.exists() else 'does not exist'}. Convert "
            "arcface_checkpoint.tar first, and give the folder that comes of it, or "
            f"{PREFIX}org/repo@COMMIT."
        )
    return {**settings, "weights": str(path.resolve())}


def _check(config: WeightsConfig, converted: Converted, source: str, registry: Registry) -> None:
    """Refuse tensors that are not those of the generator that the configuration describes."""

    build_method(config, registry=registry, read=lambda: converted.tensors, source=source)


# -- writing -------------------------------------------------------------------------------------


def _states(converted: Converted) -> dict[str, Mapping[str, Tensor]]:
    main = {MODEL: converted.tensors} if converted.tensors else {}
    return main | {f"{name}.safetensors": state for name, state in converted.extra.items()}


def _check_out(out: Path, force: bool) -> None:
    if not force and out.is_dir() and any(each.name[:7] != HIDDEN for each in out.iterdir()):
        raise WeightsError(
            f"{out} is not empty. Choose another folder, or replace what it holds with "
            "`force=True`."
        )
    if out.exists() and not out.is_dir():
        raise WeightsError(f"{out} is a file. Choose a folder.")
    if out.exists() and Path.cwd().is_relative_to(out.resolve()):
        raise WeightsError(
            f"{out} is the folder that you are in: it cannot be replaced as a whole. Choose a "
            "folder in it."
        )


def _write(
    out: Path,
    config: WeightsConfig | None,
    converted: Converted,
    origin: Mapping[str, Any],
    registry: Registry,
) -> tuple[str, ...]:
    """Write everything to ``out``, which appears whole, with what else was in it."""
    states = _states(converted)
    try:
        with rewriting(out) as made:
            about = config or WeightsConfig(method=converted.summary, alignment={})
            files = layout.write_tensors(made, states, about, torch.float32)
            if config is not None:
                config = try_golden(made, replace(config, files=files), registry=registry)
                card = model_card(config, folder=out.name)
            else:
                digests = {f"sha256 of {key}": info.sha256 for key, info in files.items()}
                usage, _ = _usage(Path(out.name), config, converted)  # not where it lies here
                card = _card(converted, {**digests, **origin}, usage)
            write_bytes(made / CARD, card.encode())
    except OSError as error:
        raise WeightsError(f"{out} cannot be written: {error}. Choose another folder.") from error
    return (*(config.files if config else states), CARD, *([CONFIG] if config else []))


def _usage(
    out: Path, config: WeightsConfig | None, converted: Converted
) -> tuple[str, Mapping[str, Any] | None]:
    """A sentence on how to use what was written; and the settings of an encoder."""
    if config is not None:
        folder = str(out) if out.is_absolute() else f"./{out}"
        usage = f"`load({folder!r})`"
        needs = config.identity_encoder
        if needs and "weights" not in needs:
            usage = (
                f"It needs the identity encoder {needs['name']!r}: convert its checkpoint, then "
                "repeat this with `encoder=FOLDER, force=True`"
            )
        return usage, None
    if converted.encoder is not None:
        settings = {**converted.encoder, "weights": str(out)}
        return f'"identity_encoder": {json.dumps(settings, ensure_ascii=False)}', settings
    return converted.usage.format(folder=out), None


def _card(converted: Converted, facts: Mapping[str, Any], usage: str) -> str:
    front = "".join(f"{line}\n" for line in license_lines(converted.license))
    return (
        f"---\nlibrary_name: facke\n{front}---\n\n# {escaped(converted.summary)}\n\nLicence: "
        f"{escaped(converted.license or 'not stated')}. {escaped(converted.notice)}\n\n"
        f"{table(facts)}\n## Use\n\n```text\n{usage}\n```\n"
    )
