"""The pictures with which results of an evaluation are compared, in the vectors of recognisers.

That is another photograph of the source's person where the pairs name one, else the source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from facke_core.evaluation.metrics import Identities
from facke_core.evaluation.pictures import PictureStore
from facke_core.jobs.pairs import PairSet, SwapPair

__all__: list[str] = []

BY_VECTORS = frozenset(
    {"id-retrieval", "id-retrieval-l2", "id-gain", "retrieval-top1", "retrieval-top5"}
)
"""Core's metrics that follow from the judge's vectors alone."""


class Gallery(NamedTuple):
    """The pictures of people among whom the source of a result is looked for."""

    vectors: Tensor
    """Vectors (G, D) of the usable ones, by the judge."""
    people: Tensor
    """Persons (G,) int64 on them."""
    numbers: Mapping[str, int]
    """Key of a picture -> person."""


def gallery_of(pairs: PairSet, pictures: PictureStore) -> Gallery:
    """The gallery of all pairs, whose pictures are ready."""
    usable = [picture for picture in pairs.compared if pictures.usable(picture)]
    number: dict[str, int] = {}
    people = [number.setdefault(picture.identity, len(number)) for picture in usable]
    vectors = [pictures.known(picture).vectors["judge"].double() for picture in usable]
    return Gallery(
        torch.stack(vectors) if vectors else torch.zeros(0, 0, dtype=torch.float64),
        torch.tensor(people, dtype=torch.int64),
        {picture.key: person for picture, person in zip(usable, people, strict=True)},
    )


def digest_of(pairs: PairSet) -> str:
    """The digest of the pictures of a gallery and of who is on them."""
    number: dict[str, int] = {}
    people = {p.key: number.setdefault(p.identity, len(number)) for p in pairs.compared}
    return hashlib.sha256(repr(sorted(people.items())).encode()).hexdigest()


def identities_of(
    role: str,
    pair: SwapPair,
    result: Tensor,
    pictures: PictureStore,
    *,
    gallery: Gallery | None = None,
) -> Identities:
    """The vectors for a pair by the encoder of a role.

    With a gallery, as the judge has one, results are compared with the picture that the pair names
    for that. Other encoders see crops, and compare with the source itself.
    """
    giver = pair.source if gallery is None else pair.compared
    vectors, people, own = torch.zeros(0, len(result)), torch.zeros(0, dtype=torch.int64), -1
    if gallery is not None:
        vectors, people, own = gallery.vectors, gallery.people, gallery.numbers[giver.key]
    return Identities(
        source=pictures.known(giver).vectors[role][None],
        target=pictures.known(pair.target).vectors[role][None],
        result=result[None],
        gallery=vectors,
        people=people,
        own=torch.tensor([own]),
    )
