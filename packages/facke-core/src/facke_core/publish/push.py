"""``push`` publishes a folder of weights on the Hugging Face Hub, checked and in one commit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from facke_core.config import json_text, read_json, to_dict
from facke_core.errors import FackeError, UnavailableError, UsageError, WeightsError, first_line
from facke_core.plugins.registry import Registry, default_registry
from facke_core.publish._curves import curves_beside
from facke_core.publish.card import model_card
from facke_core.publish.private import check_links, texts_of
from facke_core.weights import hub, layout
from facke_core.weights.answers import explaining
from facke_core.weights.checkpoints import STATE, read_state
from facke_core.weights.hub import HubLocation
from facke_core.weights.layout import FOREIGN, GOLDEN, WeightsConfig
from facke_core.weights.sources import locate

__all__ = ["Pushed", "push"]

_NO_XET = (
    "This Hub may not speak Xet, the protocol that large files go by where the package hf_xet is "
    "installed; many mirrors do not. Try HF_HUB_DISABLE_XET=1."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What was published."""

    repo_id: str
    """``org/name``."""
    commit: str
    """The new commit, 40 hexadecimal digits; empty after a dry run."""
    files: tuple[str, ...]
    """Names of the files that are in it."""
    left_out: tuple[str, ...]
    """Names of the files that hold the state of the training, in a checkpoint."""
    notes: tuple[str, ...]
    """What the publisher should know, a sentence or two each."""

    @property
    def reference(self) -> str:
        """The reference that others pin: ``hf:org/repo@COMMIT``."""
        return f"{hub.PREFIX}{self.repo_id}" + (f"@{self.commit}" if self.commit else "")


def push(
    folder: str | os.PathLike[str],
    reference: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "",
    dry_run: bool = False,
    on_files: Callable[[Mapping[str, int]], None] | None = None,
    registry: Registry | None = None,
) -> Pushed:
    """Publish a folder of weights, or the newest checkpoint of a run.

    Everything is checked first: the configuration, every digest, the tensors against the network,
    the golden tensors. The folder itself stays as it is, but three things are changed on the way. A
    model card that facke wrote calls the weights by their place on the Hub; one that was edited
    stays as it is. Golden tensors are made for weights that have none, such as a checkpoint from
    the middle of a training; the ``config.json`` that is published lists them. Pictures and people
    in ``evaluation.json`` have numbers for names. Files of the layout that lie in the repository
    and not in the folder are deleted.

    Args:
        folder: as :func:`facke_core.save` or ``facke train`` wrote it.
        reference: ``hf:org/name``; made if it does not exist.
        private: make it private. A public one of that name is refused.
        revision: a branch, made if it does not exist; default: the main one.
        message: that of the commit; default: the method and its steps.
        dry_run: check everything here and publish nothing; no token is needed.
        on_files: called before anything is sent: name -> bytes of each file that goes up.
        registry: where the method is looked up; default: everything installed.

    Raises:
        WeightsError: files that do not belong there, links, a text that names a place on this
            machine, weights that do not fit or need an encoder on this machine, no permission.
        VerificationError: a digest or the golden tensors differ.
        UsageError: no token, or a reference that names a revision.
        UnavailableError: the Hub was not reached.
    """
    from facke_core.publish.golden import verify

    location = hub.parse_reference(reference)
    if location.revision:
        raise UsageError(f"{reference!r} names a revision. Give a branch by revision instead.")
    registry = registry or default_registry()
    source = locate(Path(folder), registry=registry)
    if source.folder is None:
        raise UsageError(f"{folder} holds no weights.")
    check_links(source.folder)
    files, left_out = layout_files(source.folder, source.config)
    _check_encoder(source.config)
    contents: dict[str, Path | bytes] = {name: source.folder / name for name in files}
    contents |= texts_of(source.folder, files)
    verify(source.folder, source.config, registry=registry)
    if not dry_run:
        _check_token(location)
    config, notes = source.config, []
    if GOLDEN not in config.files:
        made, config, note = _with_golden(source.folder, config, registry)
        contents |= made
        notes.append(note)
    contents[layout.CARD], remarks = _card(source.folder, source.config, config, location.repo_id)
    notes += remarks
    if not source.config.license:
        notes.append(
            "config.json states no licence, so nobody may use these weights. Write its SPDX "
            "identifier under `license` and push again."
        )
    if on_files is not None:
        on_files({name: _size(content) for name, content in sorted(contents.items())})
    commit = ""
    if not dry_run:
        commit = _commit(location, contents, private, revision, message or _message(source.config))
    return Pushed(
        repo_id=location.repo_id,
        commit=commit,
        files=tuple(sorted(contents)),
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def _size(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def layout_files(folder: Path, config: WeightsConfig) -> tuple[list[str], list[str]]:
    """List the files to publish, and those of a training's state to leave out.

    Raises:
        WeightsError: others lie there too; hidden files do not count.
    """
    wanted = {layout.CONFIG, *config.files, *(path.name for path in hub.beside(folder))}
    present = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    }
    rest = sorted(present - wanted)
    state = {*read_state(folder)["files"], STATE} if STATE in present else set()
    left_out = [name for name in rest if name in state]
    stray = [name for name in rest if name not in state]
    if stray:
        foreign = [name for name in stray if Path(name).suffix.lower() in FOREIGN]
        why = (
            f"{', '.join(foreign)} may be pickles, which facke neither reads nor publishes"
            if foreign
            else f"only {layout.CONFIG}, the files that it lists and {', '.join(hub.BESIDE)} "
            "are published"
        )
        raise WeightsError(
            f"{folder} holds files that do not belong to weights: {', '.join(stray)}; {why}. Move "
            "them elsewhere and push again."
        )
    return sorted(wanted), left_out


def _check_encoder(config: WeightsConfig) -> None:
    """Refuse an encoder at a place of this machine: nobody else could use the weights, and the
    place would tell whose they are."""
    for key in ("weights", "model"):
        place = (config.identity_encoder or {}).get(key)
        if isinstance(place, str) and not place.startswith(hub.PREFIX):
            raise WeightsError(
                f"{layout.CONFIG} names the identity encoder by {place!r}, a place of this "
                "machine, so nobody else could use these weights. Publish the encoder (hf upload "
                f"org/repo FOLDER), write {hub.PREFIX}org/repo@COMMIT under "
                f"identity_encoder.{key}, and push again."
            )


def _check_token(location: HubLocation) -> None:
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UnavailableError("Publishing needs the Hub, and HF_HUB_OFFLINE is set. Unset it.")
    if not get_token():
        raise UsageError(
            f"Publishing hf:{location.repo_id} needs a token with the right to write. Make one at "
            f"{constants.ENDPOINT}/settings/tokens, then log in with `hf auth login` or set "
            "HF_TOKEN."
        )


def _with_golden(
    folder: Path, config: WeightsConfig, registry: Registry
) -> tuple[dict[str, bytes], WeightsConfig, str]:
    """Make files to publish besides or instead of the folder's, the configuration that lists them,
    and what to say of it."""
    from facke_core.publish.golden import make_golden

    try:
        data, listed = make_golden(folder, config, registry=registry)
    except FackeError as error:  # the weights themselves are fine
        why = f"There are no golden tensors ({GOLDEN}), and none could be made: {error}"
        return {}, config, f"{why} Others can check digests only."
    files = {GOLDEN: data, layout.CONFIG: json_text(to_dict(listed)).encode()}
    return files, listed, f"Golden tensors ({GOLDEN}) were made; the folder has none."


def _card(
    folder: Path, config: WeightsConfig, published: WeightsConfig, repo_id: str
) -> tuple[bytes, list[str]]:
    """Return the model card to publish, and what to say of it.

    Args:
        folder: the weights.
        config: their ``config.json``.
        published: what ``config.json`` says on the Hub.
        repo_id: the place there.
    """
    path, measured = folder / layout.CARD, folder / layout.EVALUATION
    evaluation = read_json(measured) if measured.is_file() else None
    curves = curves_beside(folder, config)
    try:
        ours = model_card(published, evaluation, curves=curves, repo_id=repo_id).encode()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{measured} is not what `facke evaluate` writes: {error!r}. Write it again, or "
            "remove it, and push again."
        ) from error
    if not path.is_file():
        return ours, [f"{layout.CARD} was made from {layout.CONFIG}; the folder has none."]
    content = path.read_bytes()
    as_written = {
        model_card(config, shown, curves=curves, folder=folder.name).encode()
        for shown in (None, evaluation)
    }
    if content in as_written:
        return ours, [f"{layout.CARD} says hf:{repo_id} where the folder's says ./{folder.name}."]
    return content, []


def _message(config: WeightsConfig) -> str:
    steps = config.training.get("steps")
    return f"Weights of {config.method}" + (f" after {steps} steps" if steps else "")


def _commit(
    location: HubLocation,
    contents: dict[str, Any],
    private: bool,
    revision: str | None,
    message: str,
) -> str:
    from huggingface_hub import (
        CommitOperationAdd,
        CommitOperationDelete,
        HfApi,
        constants,
        errors,
    )

    api, repo = HfApi(library_name="facke"), location.repo_id
    with explaining(location):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UsageError(
                f"hf:{repo} exists and is public. Make it private in its settings at "
                f"{constants.ENDPOINT}/{repo}/settings, or choose another name."
            )
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations: list[Any] = [
            CommitOperationAdd(name, content) for name, content in sorted(contents.items())
        ]
        there = api.list_repo_files(repo, revision=revision)
        operations += [CommitOperationDelete(name) for name in _stale(there, list(contents))]
        try:
            done = api.create_commit(repo, operations, commit_message=message, revision=revision)
        except (RuntimeError, ValueError, ConnectionError) as error:  # of the upload protocols
            if isinstance(error, errors.HfHubHTTPError):
                raise
            reason = first_line(error.__cause__ or error)
            hint = _NO_XET if "xet" in str(error).lower() else "Try again later."
            raise UnavailableError(f"hf:{repo} was not published: {reason}. {hint}") from error
    return str(done.oid)


def _stale(there: Sequence[str], new: Sequence[str]) -> list[str]:
    """List files of the layout in the repository that the new commit does not have."""
    ours = (layout.CONFIG, "*.safetensors", *hub.BESIDE)
    return [
        name
        for name in there
        if name not in new
        and (
            name == GOLDEN or ("/" not in name and any(fnmatch(name, pattern) for pattern in ours))
        )
    ]
