"""A set of weights is a folder with ``config.json`` and safetensors files, read strictly.

Nothing in such a folder is executed: ``config.json`` names a registered method, never a class, and
tensors come from safetensors only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facke_core import _tensors
from facke_core._files import restored, sha256_of, write_bytes
from facke_core.config import from_dict, read_json
from facke_core.errors import ConfigError, VerificationError, WeightsError
from facke_core.weights.tensors import (
    castable,
    check_numbers,
    name_of,
    not_finite,
    some,
    to_bytes,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = [
    "CONFIG",
    "MODEL",
    "FileInfo",
    "WeightsConfig",
    "fill",
    "read_tensors",
    "read_weights_config",
]

FORMAT = 1
CONFIG = "config.json"
MODEL = "model.safetensors"
CARD = "README.md"
EVALUATION = "evaluation.json"
GOLDEN = "test/io.safetensors"
"""Golden tensors (:mod:`facke_core.publish.golden`), the only file in a folder of its own."""
LOG = "log.jsonl"
"""The log, a line per logged step; those of earlier runs are ``log-1.jsonl`` and so on."""
PLOT = "log.svg"
"""The curves of the log, for the model card."""
FOREIGN = frozenset({".pth", ".pt", ".ckpt", ".tar", ".bin", ".pkl", ".pickle", ".onnx"})
"""Extensions of weights that facke does not read, most of them pickles."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors")
_LOG_NAME = re.compile(r"log(-[A-Za-z0-9_.-]+)?\.jsonl|log\.svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatInfo:
    """Who wrote a ``config.json``, and in which version of the layout."""

    format: int = FORMAT
    written_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One file beside ``config.json``."""

    sha256: str
    """Digest of its content, 64 hexadecimal digits."""
    dtype: str = "float32"
    """Number format in which its floating-point tensors are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """The content of ``config.json``.

    Raises:
        ConfigError: an encoder whose name is none.
        WeightsError: a name under ``files`` that no file of weights can have.
    """

    facke: FormatInfo = field(default_factory=FormatInfo)
    method: str
    """Name of a registered method."""
    generator: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the method's config class."""
    sampler: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the sampler that differ from its defaults."""
    identity_encoder: Mapping[str, Any] | None = None
    """``{"name": ..., **settings}`` of the encoder that conditions the generator, if one does."""
    alignment: Mapping[str, Any]
    """Fields of :class:`facke_core.faces.templates.Alignment`."""
    files: Mapping[str, FileInfo] = field(default_factory=dict)
    """Name -> digest and number format, of each file with tensors."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Provenance: recipe, steps, data, code. Its keys are free but ``logs`` (:func:`logs_of`)."""
    license: str = ""
    """SPDX identifier of the weights' licence; empty: not stated."""

    def __post_init__(self) -> None:
        encoder = (self.identity_encoder or {}).get("name", "")
        if not isinstance(encoder, str):
            raise ConfigError(f"{CONFIG}.identity_encoder.name: {str(encoder)[:60]} is no string.")
        for name in self.files:
            if name != GOLDEN and not _FILE_NAME.fullmatch(name):
                raise WeightsError(
                    f"config.json lists the file {name!r}. Only plain names ending in "
                    f".safetensors and {GOLDEN} are allowed."
                )


def read_weights_config(folder: str | os.PathLike[str]) -> WeightsConfig:
    """Read ``config.json`` of a folder of weights.

    Raises:
        WeightsError: no such folder, no ``config.json`` or that of another program, a format newer
            than this facke, or weights of another kind (``.pth`` and the like), which are never
            opened.
        ConfigError: a key or value that does not belong there.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    if not folder.is_dir() and not restored(folder):
        what = "is a file" if folder.exists() else "does not exist"
        raise WeightsError(
            f"{folder} {what}. Give a folder that holds {CONFIG} and {MODEL}, or hf:org/repo."
        )
    if not (folder / CONFIG).is_file():
        foreign = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in FOREIGN)
        if foreign:
            refuse_foreign(folder / foreign[0])
        raise WeightsError(
            f"{folder} holds no {CONFIG}, so it is not a folder of facke weights. "
            "Give one written by `facke train` or facke_core.save."
        )
    data = read_json(folder / CONFIG)
    if not {"facke", "method"} & data.keys():
        raise WeightsError(
            f"{folder / CONFIG} is not one of facke's: it names no method, so these are weights of "
            "another program. Give weights written by `facke train` or facke_core.save; "
            "checkpoints of the original systems become such by: facke weights convert"
        )
    return parse_weights_config(data)


def parse_weights_config(data: Mapping[str, Any]) -> WeightsConfig:
    """Check the content of ``config.json``; see :func:`read_weights_config`."""
    header = data.get("facke")
    form = header.get("format") if isinstance(header, Mapping) else None
    if isinstance(form, int) and form > FORMAT:
        by = header.get("written_by") if isinstance(header, Mapping) else ""
        raise WeightsError(
            f"These weights are in format {form} (written by {by or 'a newer facke'}); this facke "
            f"reads formats up to {FORMAT}. Upgrade: pip install -U facke-core"
        )
    return from_dict(WeightsConfig, data, where=CONFIG)


def refuse_foreign(path: Path) -> None:
    """Raise WeightsError for weights in a format that facke never opens, such as ``.pth``."""
    if path.suffix.lower() not in FOREIGN or path.is_dir():
        return
    why = "an ONNX graph" if path.suffix.lower() == ".onnx" else "a pickle, which can run any code"
    raise WeightsError(
        f"{path} is not opened: files ending in {path.suffix} are usually {why}, and facke reads "
        f"safetensors only. Give a folder with {CONFIG} and {MODEL}. Checkpoints of the original "
        f"systems become one, with nothing in them executed: facke weights convert {path} -o DIR"
    )


def config_digest(config: WeightsConfig) -> str:
    """Return the SHA-256 of what shapes the network; the weights store it, to recognise it by."""
    shape = {"method": config.method, "generator": dict(config.generator)}
    text = json.dumps(shape, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()


def logs_of(config: WeightsConfig) -> dict[str, str]:
    """List the logs of the training that ``config.json`` names, and their plot; name -> SHA-256.

    They stand under ``logs`` in ``training``, which is free: what is no name of a log there is
    somebody's remark, and left alone.
    """
    logs = config.training.get("logs")
    if not isinstance(logs, Mapping):
        return {}
    return {name: str(digest) for name, digest in logs.items() if _LOG_NAME.fullmatch(name)}


def check_files(folder: Path, config: WeightsConfig) -> dict[str, str]:
    """Compare every file that ``config.json`` names with its digest; name -> SHA-256.

    Raises:
        WeightsError: a file is missing, or ``model.safetensors`` is not listed.
        VerificationError: one is not the file that ``config.json`` describes.
    """
    names = (MODEL, *config.files, *logs_of(config))
    return {name: check_file(folder, name, config) for name in names}


def check_file(folder: Path, name: str, config: WeightsConfig) -> str:
    """Compare one file that ``config.json`` names with its digest; return that.

    Raises:
        WeightsError, VerificationError: see :func:`check_files`.
    """
    expected = _expected(folder, name, config)
    try:
        return _compare(folder / name, sha256_of(folder / name), expected)
    except OSError as error:
        raise WeightsError(f"{folder / name} cannot be read: {error}. Check its rights.") from error


def _expected(folder: Path, name: str, config: WeightsConfig) -> str:
    """Return the digest of a file of ``folder`` that ``config.json`` names."""
    digests = {file: info.sha256 for file, info in config.files.items()} | logs_of(config)
    if name not in digests:
        raise WeightsError(f"{folder / CONFIG} lists no {name}, so its weights cannot be checked.")
    if not (folder / name).is_file():
        raise WeightsError(
            f"{folder / name} is missing. Copy or download the folder again, completely."
        )
    return digests[name]


def _compare(path: Path, actual: str, expected: str) -> str:
    if actual != expected:
        raise VerificationError(
            f"{path} is not the file that {CONFIG} describes: its sha256 is {actual}, expected "
            f"{expected}. It is damaged or was replaced; copy or download the folder again."
        )
    return actual


def read_tensors(folder: Path, name: str, config: WeightsConfig) -> dict[str, Tensor]:
    """Read the tensors of one file of a folder of weights, after comparing its digest.

    Args:
        folder: the weights.
        name: the file, such as :data:`MODEL`.
        config: their ``config.json``, read.

    Returns:
        Name -> tensor on the CPU, in the number format of the file.

    Raises:
        WeightsError: the file is missing or ``config.json`` does not list it.
        VerificationError: it is not the file that ``config.json`` describes, no safetensors file,
            of a network with other settings, or it holds numbers that are not finite.
    """
    return read_file(folder, name, config).tensors


def read_file(folder: Path, name: str, config: WeightsConfig) -> _tensors.TensorFile:
    """Read tensors and metadata as :func:`read_tensors` does, with its errors. The digest is that
    of the bytes that they come from, whatever happens to the file meanwhile."""
    path = folder / name
    expected = _expected(folder, name, config)
    try:
        file = _tensors.read(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error}. Check its rights.") from error
    except ValueError as error:
        check_file(folder, name, config)  # a file that is cut off is told by its digest
        raise VerificationError(
            f"{path} is not a safetensors file ({error}). Copy or download it again."
        ) from error
    _compare(path, file.sha256, expected)
    digest = file.metadata.get("config_sha256")
    if digest and digest != config_digest(config):
        raise VerificationError(
            f"{folder / CONFIG} was changed after {name} was saved: its method or "
            "generator settings are not those of these weights. Restore it."
        )
    check_numbers(file.tensors, str(path))
    return file


def write_tensors(
    folder: Path,
    modules: Mapping[str, nn.Module | Mapping[str, Tensor]],
    config: WeightsConfig,
    dtype: torch.dtype,
) -> dict[str, FileInfo]:
    """Write each module's state, or each state, as safetensors of ``dtype``; files appear whole.

    Raises:
        WeightsError: the folder cannot be written, or the weights hold numbers that are not finite,
            or are not in ``dtype``.
    """
    metadata = {"format": "pt", "method": config.method, "config_sha256": config_digest(config)}
    files = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, module in modules.items():
            state = module if isinstance(module, Mapping) else module.state_dict()
            data = to_bytes(_cast(name, state, dtype), metadata)
            write_bytes(folder / name, data)
            digest = hashlib.sha256(data).hexdigest()
            files[name] = FileInfo(sha256=digest, dtype=name_of(dtype))
    except OSError as error:
        raise WeightsError(
            f"The weights cannot be written to {folder}: {error}. Choose another folder."
        ) from error
    return files


def _cast(name: str, state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Bring a state to the CPU, and its floats to ``dtype``, without losing any."""
    tensors = {
        key: value.detach().to("cpu", dtype if value.is_floating_point() else None)
        for key, value in state.items()
    }
    if bad := not_finite(tensors):
        if own := not_finite(state):
            raise WeightsError(
                f"{name} is not written: it would hold numbers that are not finite (NaN or "
                f"infinite), as {own}. Take weights from before they arose."
            )
        raise WeightsError(
            f"{name} is not written: numbers in it are too large for {name_of(dtype)} and would "
            f"become infinite: {bad}. Save it with `dtype=torch.float32`."
        )
    return tensors


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str, built_by: str) -> None:
    """Put ``tensors`` into ``module``, strictly; values are cast to the module's dtypes.

    Args:
        module: changed in place.
        tensors: its whole state, by name.
        source: what the weights are called, for the error.
        built_by: what the network was built from, for the error.

    Raises:
        WeightsError: missing or unexpected tensors, other shapes, or numbers of another kind; names
            them and ``built_by``.
    """
    check_fit(module.state_dict(), tensors, source=source, built_by=built_by)
    module.load_state_dict(dict(tensors), strict=True)


def check_fit(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], *, source: str, built_by: str
) -> None:
    """Compare ``tensors`` with the state ``own`` of a network, by name, shape and kind of number.

    Raises:
        WeightsError: missing or unexpected tensors, other shapes, or no floats in place of floats.
    """
    common = sorted(own.keys() & tensors.keys())
    faults = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "other shapes": [
            f"{key} is {tuple(tensors[key].shape)}, the network has {tuple(own[key].shape)}"
            for key in common
            if own[key].shape != tensors[key].shape
        ],
        "other numbers": [
            f"{key} is {name_of(tensors[key].dtype)}, the network has {name_of(own[key].dtype)}"
            for key in common
            if not castable(tensors[key].dtype, own[key].dtype)
        ],
    }
    problems = [f"{what}: {some(names)}" for what, names in faults.items() if names]
    if problems:
        raise WeightsError(
            f"{source} does not fit the network built from {built_by}. {'; '.join(problems)}. "
            "Use the configuration that these weights were saved with."
        )
