"""Weights on the Hugging Face Hub: a reference in, a local folder and a commit out.

``huggingface_hub`` is imported on use; its settings hold (``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``, ``HF_TOKEN``). Every error of it becomes a
:class:`~facke_core.errors.FackeError` that says what to try.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from facke_core.errors import UnavailableError, UsageError, WeightsError

PREFIX = "hf:"
_REFERENCE = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubLocation(NamedTuple):
    """A repository, and a branch, tag or commit in it (None: the default branch)."""

    repo_id: str
    revision: str | None


class HubFiles(NamedTuple):
    """Downloaded files."""

    folder: Path
    commit: str
    """The 40-digit commit that the revision stood for."""


def parse_reference(text: str, revision: str | None = None) -> HubLocation:
    """Read ``hf:org/repo`` or ``hf:org/repo@revision``.

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

    Raises:
        UnavailableError: offline or no connection, and a file is not in the cache.
        WeightsError: no such repository, revision or file, or no permission.
    """
    from huggingface_hub import hf_hub_download

    folder, commit = Path(), location.revision or ""
    with _explaining(location):
        for name in names:
            file = Path(
                hf_hub_download(
                    location.repo_id,
                    name,
                    revision=commit or None,
                    local_files_only=local_files_only,
                )
            )
            folder = file.parent
            # the cache keeps one folder per commit: later files come from the same one
            commit = folder.name if _COMMIT.fullmatch(folder.name) else commit
    return HubFiles(folder, commit)


@contextmanager
def _explaining(location: HubLocation) -> Iterator[None]:
    from huggingface_hub import errors

    # the HTTP client's own base class; which client that is changes between versions
    http_error: Any = errors.HfHubHTTPError.__bases__[0]

    repo = location.repo_id
    at = f" at revision {location.revision!r}" if location.revision else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"hf:{repo} asks you to accept its conditions first. Do so at "
            f"https://huggingface.co/{repo}, log in with `hf auth login`, and try again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"hf:{repo} does not exist, or you may not see it. Check the spelling; for a private "
            "repository log in with `hf auth login` or set HF_TOKEN."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(
            f"hf:{repo} has no revision {location.revision!r}. Give a branch, a tag or a "
            f"40-digit commit that is listed at https://huggingface.co/{repo}/commits."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise UnavailableError(
            f"hf:{repo}{at} is not in the local cache, and the Hub was not reached (offline mode "
            "or no connection). Connect once, unset HF_HUB_OFFLINE, or give ./folder with a copy."
        ) from error
    except errors.EntryNotFoundError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else ""
        raise WeightsError(
            f"hf:{repo}{at} lacks a file, so it is not in facke's layout (config.json and "
            f"safetensors): {reason}"
        ) from error
    except errors.HFValidationError as error:
        raise UsageError(f"hf:{repo} is not a possible name on the Hub: {error}") from error
    except (http_error, ConnectionError) as error:
        raise UnavailableError(
            f"The Hub did not answer for hf:{repo}{at}: {_first_line(error)}. Try again later, "
            "check HF_TOKEN, or work from the cache with HF_HUB_OFFLINE=1."
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"hf:{repo}{at} cannot be stored: {_first_line(error)}. Check the free space and the "
            "rights of the cache folder (HF_HOME)."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
