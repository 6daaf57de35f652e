"""The weights of encoders lie at a pinned commit on the Hub, or at a local path."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from facke_core import _tensors
from facke_core.errors import FackeWarning, UsageError, VerificationError, WeightsError
from facke_core.weights.hub import PREFIX, HubLocation, fetch, forget, parse_reference
from facke_core.weights.layout import MODEL, refuse_foreign
from facke_core.weights.tensors import check_numbers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["encoder_tensors"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def encoder_folder(
    reference: str, revision: str | None, names: Iterable[str], *, local_files_only: bool = False
) -> Path:
    """Return the folder with the files ``names``, fetched where ``reference`` is ``hf:org/repo``.

    Raises:
        UsageError: neither a folder nor a reference to one commit on the Hub.
        WeightsError: a file is missing.
        UnavailableError: the Hub cannot be reached.
    """
    if reference.startswith(PREFIX):
        location = pinned(reference, revision)
        return fetch(location, names, local_files_only=local_files_only).folder
    folder = Path(reference)
    if not folder.is_dir():
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", reference)
        hint = f" For the Hub write {PREFIX}{reference}@COMMIT." if hub else ""
        raise UsageError(f"The encoder's folder {reference!r} does not exist.{hint}")
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(f"{folder} holds no {name}. Copy or download the folder again.")
    return folder


def pinned(reference: str, revision: str | None = None) -> HubLocation:
    """Return the place of an encoder on the Hub, at one commit.

    Raises:
        UsageError: it names no commit, or is no reference.
    """
    location = parse_reference(reference, revision)
    if location.revision and _COMMIT.fullmatch(location.revision):
        return location
    moves = f" ({location.revision!r} can move)" if location.revision else ""
    raise UsageError(
        f"The encoder {reference!r} is not pinned{moves}. A generator fits the embeddings of one "
        "encoder only, and names on the Hub can change. Write "
        f"{PREFIX}{location.repo_id}@COMMIT with the 40 digits from "
        f"https://huggingface.co/{location.repo_id}/commits/main."
    )


def encoder_tensors(
    reference: str, revision: str | None, *, local_files_only: bool = False
) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of ``model.safetensors`` in a folder.

    Args:
        reference: the file, the folder, or ``hf:org/repo@COMMIT``.
        revision: the commit, where ``reference`` names none.
        local_files_only: never contact the Hub.

    Returns:
        Name -> tensor on the CPU, in the number format of the file.

    Raises:
        UsageError, WeightsError, UnavailableError: see :func:`encoder_folder`.
        VerificationError: not a safetensors file, or numbers in it are not finite.
    """
    file = Path(reference)
    if not file.is_file():
        folder = encoder_folder(reference, revision, [MODEL], local_files_only=local_files_only)
        file = folder / MODEL
    refuse_foreign(file)
    try:
        return _read(file)
    except ValueError as error:
        if not reference.startswith(PREFIX) or local_files_only:
            raise _not_tensors(file, error) from error
        warnings.warn(
            f"{file} is damaged ({error}). It is fetched again.", FackeWarning, stacklevel=2
        )
    forget(file)
    encoder_folder(reference, revision, [MODEL])
    try:
        return _read(file)
    except ValueError as error:
        raise _not_tensors(file, error) from error


def _read(file: Path) -> dict[str, Tensor]:
    """Read the tensors, after comparing the digest where the cache of the Hub knows one.

    Raises:
        WeightsError: it cannot be read.
        ValueError: it is damaged.
    """
    try:
        content = _tensors.read(file)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {error}. Check its rights.") from error
    blob = file.resolve()  # the cache of the Hub names large files by their SHA-256
    known = blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
    if known and content.sha256 != blob.name:
        raise ValueError(f"its sha256 is {content.sha256}, expected {blob.name}")
    check_numbers(content.tensors, str(file))
    return content.tensors


def _not_tensors(file: Path, error: ValueError) -> VerificationError:
    return VerificationError(
        f"{file} is not a safetensors file ({error}). Convert or download it again."
    )
