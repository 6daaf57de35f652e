"""Weights on the Hugging Face Hub: a reference in, a local folder and a commit out.

``huggingface_hub`` is imported on use; its settings hold (``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``). Every error of it becomes a
:class:`~facke_core.errors.FackeError` that says what to try.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from facke_core._files import new_folder
from facke_core.config import read_json
from facke_core.errors import (
    ConfigError,
    UnavailableError,
    UsageError,
    VerificationError,
    WeightsError,
)
from facke_core.weights import layout
from facke_core.weights.answers import explaining

if TYPE_CHECKING:
    from facke_core.weights.layout import WeightsConfig

__all__ = ["HubLocation", "fetch", "pull"]

PREFIX = "hf:"
BESIDE = (
    layout.CARD,
    layout.EVALUATION,
    "DATA.md",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "log*.jsonl",
    layout.PLOT,
)
"""Names of files that may lie beside ``config.json`` and the files that it lists."""
_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubLocation(NamedTuple):
    """A place on the Hub: a repository, at one revision of it."""

    repo_id: str
    """``org/name``."""
    revision: str | None
    """A branch, tag or commit; None: the default branch."""


class HubFiles(NamedTuple):
    """Files of a repository that lie in the cache."""

    folder: Path
    """Their folder, in which they have the names that they have in the repository."""
    commit: str
    """The 40-digit commit that the revision stood for."""


def parse_reference(text: str, revision: str | None = None) -> HubLocation:
    """Read ``hf:org/repo`` or ``hf:org/repo@revision``; ``revision`` stands in where none is named.

    Raises:
        UsageError: another form, or two different revisions.
    """
    match = _REFERENCE.fullmatch(text)
    if not match:
        raise UsageError(
            f"{text!r} is not a reference to the Hub. Write hf:org/repo or hf:org/repo@revision."
        )
    given = match["revision"]
    if given and revision and given != revision:
        raise UsageError(
            f"{text!r} names the revision {given!r}, but revision={revision!r} was given too. "
            "Give one of them."
        )
    return HubLocation(match["repo"], given or revision)


def fetch(
    location: HubLocation, names: Iterable[str], *, local_files_only: bool = False
) -> HubFiles:
    """Make files of a repository available locally; files in the cache are not fetched again.

    Args:
        location: the repository; all files come from one commit of it.
        names: the files, as the repository names them.
        local_files_only: never contact the Hub.

    Returns:
        Where they lie, and the commit.

    Raises:
        UnavailableError: offline or no connection, and a file is not in the cache.
        WeightsError: no such repository, revision or file, or no permission.
    """
    from huggingface_hub import hf_hub_download

    folder, commit = Path(), location.revision or ""
    with explaining(location, offline=local_files_only):
        for name in names:
            file = Path(
                hf_hub_download(
                    location.repo_id,
                    name,
                    revision=commit or None,
                    local_files_only=local_files_only,
                )
            )
            folder = file.parents[name.count("/")]
            # the cache keeps one folder per commit: later files come from the same one
            commit = folder.name if _COMMIT.fullmatch(folder.name) else commit
    return HubFiles(folder, commit)


def pull(
    location: HubLocation, *, local_files_only: bool = False
) -> tuple[HubFiles, WeightsConfig]:
    """Make a whole folder of weights available in the cache: every file of the layout, at one
    commit, and no other. Files that ``config.json`` names are compared with their digests.

    A connection that breaks is taken up again where it broke, by ``huggingface_hub``; files that
    are complete are never fetched twice.

    Args:
        location: the repository; all files come from one commit of it.
        local_files_only: never contact the Hub.

    Returns:
        Where they lie, the commit, and their ``config.json``, read.

    Raises:
        UnavailableError: offline or no connection, and a file is not in the cache.
        WeightsError: no such repository or revision, no permission, or not facke's layout.
        VerificationError: a file is not the one that ``config.json`` describes. It is removed from
            the cache.
    """
    from huggingface_hub import constants, snapshot_download

    first = fetch(location, [layout.CONFIG], local_files_only=local_files_only)
    config = layout.read_weights_config(first.folder)
    location = location._replace(revision=first.commit or location.revision)
    offline = local_files_only or constants.HF_HUB_OFFLINE
    if not offline:
        with explaining(location):
            snapshot_download(
                location.repo_id,
                revision=location.revision,
                allow_patterns=[layout.CONFIG, *config.files, *BESIDE],
            )
    for name in (*config.files, *layout.logs_of(config)):
        fetched = fetch(location, [name], local_files_only=offline)
        try:
            layout.check_file(first.folder, name, config)
        except VerificationError as error:
            forget(fetched.folder / name)
            raise VerificationError(
                f"hf:{location.repo_id}@{location.revision}: {name} is not the file that "
                f"{layout.CONFIG} describes. {error} It was removed from the cache: pull again, "
                "and if that does not help, tell those who published it."
            ) from error
    return HubFiles(first.folder, first.commit), config


def copy_layout(folder: Path, config: WeightsConfig, destination: Path) -> None:
    """Copy a folder of weights; ``destination`` appears whole or not at all.

    Raises:
        UsageError: it exists.
        WeightsError: it cannot be written.
    """
    check_new(destination)
    names = [layout.CONFIG, *config.files, *(path.name for path in beside(folder))]
    try:
        with new_folder(destination) as part:
            for name in names:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, part / name)
    except OSError as error:
        raise WeightsError(
            f"{destination} cannot be written: {error}. Check the folder and the free space."
        ) from error


def check_new(destination: Path) -> None:
    """Raise UsageError if ``destination`` exists."""
    if destination.exists():
        raise UsageError(f"{destination} exists already. Choose another folder, or remove it.")


def beside(folder: Path) -> list[Path]:
    """List files of a folder of weights that ``config.json`` does not: cards, logs, licences."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in BESIDE)
    )


def cached() -> Iterator[tuple[str, str, Path]]:
    """Yield (repository, commit, folder) of all weights in facke's layout in the cache of the Hub.

    Raises:
        UnavailableError: the cache cannot be read.
    """
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    except RuntimeError:  # who has no home has no cache
        return
    except (OSError, ValueError) as error:
        raise UnavailableError(
            f"The cache of the Hub cannot be read: {constants.HF_HUB_CACHE} is no folder, or not "
            "yours. Let HF_HOME or HF_HUB_CACHE name another."
        ) from error
    for repo in sorted(repos, key=lambda each: each.repo_id):
        for revision in sorted(repo.revisions, key=lambda each: each.commit_hash):
            folder = Path(revision.snapshot_path)
            if repo.repo_type == "model" and in_layout(folder):
                yield repo.repo_id, revision.commit_hash, folder


def in_layout(folder: Path) -> bool:
    """Tell whether ``config.json`` of ``folder`` is one of facke's, not of another library."""
    try:
        return "facke" in read_json(folder / layout.CONFIG)
    except ConfigError:
        return False


def forget(file: Path) -> None:
    """Remove a file from the cache of the Hub, with the blob it links to."""
    with suppress(OSError):
        blob = file.resolve()
        file.unlink()
        blob.unlink()
