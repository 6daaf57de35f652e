"""``facke prepare``: photographs of people in, a crop set out (:mod:`facke_core.data.crops`).

The same photographs give the same bytes, whatever the number of processes and whatever was there
before. Work is done per shard; a finished shard is never done again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from facke_core._files import one_job
from facke_core.building import DEFAULT_ENCODER, encoder_settings, load_encoder
from facke_core.data.crops import UNFINISHED
from facke_core.data.info import FORMAT, INFO, Store, read_info
from facke_core.data.shards import SUFFIX
from facke_core.environment import check_workers
from facke_core.errors import ConfigError, DataError, check_choice
from facke_core.faces.templates import Alignment
from facke_core.identity.digest import encoder_digest
from facke_core.images.files import is_hidden
from facke_core.prepare.making import Making
from facke_core.prepare.photos import Album, find_photos
from facke_core.prepare.portraits import Preparation
from facke_core.prepare.summary import PrepareSummary
from facke_core.types import Progress

__all__ = ["prepare"]

DEFAULT_SIZE = 128
DEFAULT_TEMPLATE = "simswap_frontal"


class Settings(NamedTuple):
    """The options of a preparation, filled up with what the dataset says that is there already."""

    preparation: Preparation
    encoder: dict[str, Any]
    """Settings of the encoder, ``{"name": ..., **settings}``."""
    encoder_digest: str
    store: Store
    license: str
    name: str
    manifest: str
    """Name of the CSV; empty: none."""


def prepare(
    photos: str | os.PathLike[str],
    dataset: str | os.PathLike[str],
    *,
    size: int | None = None,
    template: str | None = None,
    encoder: str | Mapping[str, Any] | None = None,
    manifest: str | os.PathLike[str] | None = None,
    aligned: bool | None = None,
    store: Store | None = None,
    license: str | None = None,  # noqa: A002
    name: str | None = None,
    workers: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[PrepareSummary, ...]:
    """Make or update the crop set ``dataset`` from the photographs of people in ``photos``.

    The largest face of each photograph is detected, aligned and embedded. What another run
    computed for a file of the same content is taken from there: after a change only what changed
    is computed, and an interrupted run goes on.

    Where an option is None, the dataset's own value is kept if there is one.

    Args:
        photos: ``PERSON/*``, ``images/PERSON/*``, or ``{train,test}/images/PERSON/*``, which gives
            the sets ``dataset/train`` and ``dataset/test``.
        dataset: a folder, made if it is missing.
        size: side of the crops in pixels; default 128.
        template: name of their template; default ``simswap_frontal``.
        encoder: the encoder of the vectors, as :func:`facke_core.load_encoder` takes it.
        manifest: a CSV that names pictures and people; see :mod:`facke_core.prepare.photos`.
        aligned: the pictures are crops of ``template`` already: detect nothing, find no landmarks.
        store: ``tensors``, or ``webdataset`` for tars of lossless PNGs.
        license: SPDX expression of the pictures' licence.
        name: name of the dataset; default: the name of ``photos``.
        workers: number of processes; default: one per core. They import the caller's main module,
            so a script needs ``if __name__ == "__main__":`` around its call.
        on_progress: called with what is being done, how many files of it are done, and how many
            there are.

    Raises:
        DataError: no person or no usable picture in ``photos``; ``dataset`` is something else, has
            other crops, or cannot be written; no worker can be started.
        UnavailableError: the encoder or the detector cannot be used here.

    Warns:
        FackeWarning: everything shows one person.
    """
    if workers is not None:
        check_workers(workers)
    if store is not None:
        check_choice("store", store, SUFFIX)
    photos, dataset = Path(photos), Path(dataset)
    manifest = None if manifest is None else Path(manifest)
    albums = find_photos(photos, manifest)
    _check_place(photos, dataset)
    folders = {split: dataset / split for split in albums}
    existing = _info(next(iter(folders.values())))
    have = existing.get("alignment", {})
    alignment = Alignment(
        template=template or have.get("template", DEFAULT_TEMPLATE),
        size=have.get("size", DEFAULT_SIZE) if size is None else size,
    )
    if aligned is None:
        aligned = bool(existing.get("aligned", False))
    kept = encoder_settings(encoder or existing.get("identity_encoder") or DEFAULT_ENCODER)
    settings = Settings(
        preparation=Preparation(alignment=alignment, aligned=aligned),
        encoder=kept,
        encoder_digest=encoder_digest(load_encoder(kept), kept),
        store=store or existing.get("store", "tensors"),
        license=license if license is not None else existing.get("license", ""),
        name=name or existing.get("name") or photos.resolve().name,
        manifest=manifest.name if manifest else "",
    )
    for folder in folders.values():
        _check_same_crops(folder, settings)
    return tuple(
        _prepare(photos, album, folders[split], split, settings, workers, on_progress)
        for split, album in albums.items()
    )


def _prepare(
    photos: Path,
    album: Album,
    folder: Path,
    split: str,
    settings: Settings,
    workers: int | None,
    on_progress: Progress | None,
) -> PrepareSummary:
    making = Making(
        photos,
        album,
        folder,
        preparation=settings.preparation,
        encoder=settings.encoder,
        encoder_digest=settings.encoder_digest,
        store=settings.store,
        workers=workers or _cores(),
        on_progress=on_progress or (lambda what, done, total: None),
    )
    with one_job(folder):
        (folder / UNFINISHED).mkdir(exist_ok=True)
        making.sort_out()
        making.compute()
        alignment = settings.preparation.alignment
        about = {
            "name": settings.name,
            **({"split": split} if split else {}),
            "alignment": {"template": alignment.template, "size": alignment.size},
            "aligned": settings.preparation.aligned,
            "identity_encoder": settings.encoder,
            "encoder_digest": settings.encoder_digest,
            "license": settings.license,
            **({"manifest": settings.manifest} if settings.manifest else {}),
        }
        return making.assemble(about)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_place(photos: Path, dataset: Path) -> None:
    """Refuse a place that holds anything but a dataset, an unfinished one or nothing."""
    if dataset.resolve().is_relative_to(photos.resolve()):
        raise DataError(
            f"The dataset {dataset} would lie among the photographs of {photos}. Choose a folder "
            "beside them."
        )
    if not dataset.exists():
        return
    if not dataset.is_dir():
        raise DataError(f"{dataset} is a file. Give a folder for the dataset.")
    inside = {path.name for path in dataset.iterdir() if not is_hidden(path.name)}
    parts = [dataset, dataset / "train", dataset / "test"]
    ours = any((part / name).exists() for part in parts for name in (INFO, UNFINISHED))
    if inside and not ours:
        raise DataError(
            f"{dataset} holds other files ({', '.join(sorted(inside)[:3])}), and no dataset. "
            "Choose an empty folder or a new one."
        )


def _info(folder: Path) -> dict[str, Any]:
    """The content of ``dataset.json`` in ``folder``; empty if there is none."""
    try:
        return read_info(folder)[1]
    except ConfigError:
        return {}


def _check_same_crops(folder: Path, settings: Settings) -> None:
    """Refuse to throw crops of another kind away because of a forgotten option."""
    info, alignment = _info(folder), settings.preparation.alignment
    if info.get("format") != FORMAT:
        return
    framing = info.get("alignment", {})
    have = (framing.get("size"), framing.get("template"), info.get("aligned", False))
    want = (alignment.size, alignment.template, settings.preparation.aligned)
    if have != want:
        texts = [
            f"`size={crops[0]}, template={crops[1]!r}{', aligned=True' * crops[2]}`"
            for crops in (have, want)
        ]
        raise DataError(
            f"{folder} holds {info.get('count')} crops made with {texts[0]}; now it is {texts[1]}. "
            "Choose another folder, or delete this one first."
        )
