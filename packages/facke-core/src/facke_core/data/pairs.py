"""Pairs of pictures: intra-ID and inter-ID, with and without Identity Grouping.

Everything random about the pairs of step k follows from ``(seed, k)``: the sequence is the same for
any number of processes and loader workers, and after resuming.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

from facke_core.errors import DataError, FackeWarning, check_ranges

__all__ = ["PairConfig", "PairSampler"]


class CropPair(NamedTuple):
    """Two crops of a set, by index."""

    source: int
    target: int
    same_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig:
    """The rules by which the pairs of a batch are drawn.

    Raises:
        ConfigError: a share that is none.
    """

    rule: Literal["facke", "paper", "simswap", "weighted"] = "weighted"
    """The order of the draws.

    ``facke``: as Facke's code does. The source is uniform over pictures; for an inter-ID pair
    another person is drawn uniformly, then one of their pictures.
    ``paper``: as Facke's text says. People are uniform, then the pictures of each.
    ``simswap``: as the official SimSwap's later training script does. A person is drawn, then two
    pictures independently; on inter-ID steps the sources are shuffled within the batch.
    ``weighted``: pictures are drawn by their weight in the crop set.
    """
    grouping: bool = False
    """Identity Grouping (Facke, Sec. 2.1): an intra-ID pair is two different pictures of one
    person, not one picture twice. Means nothing to ``simswap``, which draws two anyway."""
    schedule: Literal["mixed", "alternate"] = "mixed"
    """The mixture of the two kinds. ``alternate``: even steps are intra-ID, odd steps inter-ID, as
    in SimSwap and Facke. ``mixed``: every batch holds a share ``intra`` of intra-ID pairs."""
    intra: float = 0.5
    """Share of intra-ID pairs in a batch, 0 to 1; for ``mixed`` only."""

    def __post_init__(self) -> None:
        check_ranges(self, "data", intra=(0, 1))


class People:
    """The pictures of each person.

    Args:
        people: the person of each picture.
        weights: how often a picture is drawn by ``weighted``, above 0; default: all alike.
    """

    def __init__(self, people: Sequence[int], weights: Iterable[float] | None = None) -> None:
        self.person = list(people)
        grouped: dict[int, list[int]] = {}
        for picture, person in enumerate(self.person):
            grouped.setdefault(person, []).append(picture)
        self.pictures = grouped
        self.names = sorted(grouped)
        self.groups = [name for name in self.names if len(grouped[name]) > 1]
        """People with at least two pictures."""
        self.pairable = [i for i, person in enumerate(self.person) if len(grouped[person]) > 1]
        weight = list(weights) if weights is not None else [1.0] * len(self)
        self._cumulative = list(accumulate(weight))
        self._pairable_cumulative = list(accumulate(weight[i] for i in self.pairable))

    def __len__(self) -> int:
        return len(self.person)

    def weighted(self, rng: random.Random, *, pairable: bool = False) -> int:
        """Draw a picture by weight; with ``pairable``, one of somebody with at least two."""
        if pairable:
            return rng.choices(self.pairable, cum_weights=self._pairable_cumulative)[0]
        return rng.choices(range(len(self)), cum_weights=self._cumulative)[0]

    def another_of(self, picture: int, rng: random.Random) -> int:
        """Draw another picture of the same person, uniformly.

        Raises:
            DataError: there is none.
        """
        others = [other for other in self.pictures[self.person[picture]] if other != picture]
        if not others:
            raise DataError(
                f"Person {self.person[picture]} has one picture only, so Identity Grouping finds "
                "no second one. Add pictures, or train with data.grouping=false."
            )
        return rng.choice(others)

    def of_another(self, picture: int, rng: random.Random) -> int:
        """Draw a picture of another person: the person uniformly, then the picture uniformly."""
        person = rng.choice([name for name in self.names if name != self.person[picture]])
        return rng.choice(self.pictures[person])


class PairSampler:
    """The pairs of each step over all processes: ``sampler[k]`` are those of step k.

    Args:
        people: who is on the pictures.
        config: the rules.
        batch_size: pairs per step.
        composites: how many of them, the first ones, become composites: one picture with itself.
        seed: seed of all draws.

    Raises:
        DataError: fewer than two people where inter-ID pairs are asked for, or nobody with two
            pictures where Identity Grouping is.

    Warns:
        FackeWarning: people with one picture, whom Identity Grouping leaves out of intra-ID pairs.
    """

    def __init__(
        self, people: People, *, config: PairConfig, batch_size: int, composites: int, seed: int
    ) -> None:
        self.people, self.config, self.seed = people, config, seed
        self.batch_size, self.composites = batch_size, composites
        self._intra = min(round(config.intra * batch_size), batch_size - composites)
        alternate = config.schedule == "alternate"
        self._check(
            intra=composites < batch_size and (alternate or self._intra > 0),
            inter=alternate or composites + self._intra < batch_size,
        )

    def _check(self, *, intra: bool, inter: bool) -> None:
        people = self.people
        if inter and len(people.names) < 2:
            raise DataError(
                f"The crop set shows {len(people.names)} person, and inter-ID pairs need two. Add "
                "people, or train with data.schedule=mixed and data.intra=1."
            )
        if not (intra and self.config.grouping and self.config.rule != "simswap"):
            return
        if not people.groups:
            raise DataError(
                f"Identity Grouping needs people with two pictures, and each of the "
                f"{len(people.names)} people in the crop set has one. Add pictures, or train with "
                "data.grouping=false."
            )
        if alone := len(people.names) - len(people.groups):
            warnings.warn(
                f"{alone} of {len(people.names)} people have one picture only; Identity Grouping "
                "leaves them out of intra-ID pairs.",
                FackeWarning,
                stacklevel=4,
            )

    def __getitem__(self, step: int) -> list[CropPair]:
        rng = random.Random(f"{self.seed}/{step}")
        pairs = [CropPair(i, i, True) for i in (self._draw(rng) for _ in range(self.composites))]
        rest = self.batch_size - self.composites
        intra = self._intra
        if self.config.schedule == "alternate":
            intra = rest if step % 2 == 0 else 0
        if self.config.rule == "simswap":
            return pairs + self._simswap(intra, rest - intra, rng)
        pairs += [self._intra_pair(rng) for _ in range(intra)]
        return pairs + [self._inter_pair(rng) for _ in range(rest - intra)]

    def _draw(self, rng: random.Random) -> int:
        """Draw one picture, as the rule draws the first of a pair."""
        people = self.people
        if self.config.rule == "facke":
            return rng.randrange(len(people))
        if self.config.rule == "weighted":
            return people.weighted(rng)
        return rng.choice(people.pictures[rng.choice(people.names)])

    def _intra_pair(self, rng: random.Random) -> CropPair:
        people, rule = self.people, self.config.rule
        if not self.config.grouping:
            picture = self._draw(rng)
            return CropPair(picture, picture, True)
        if rule == "paper":
            source, target = rng.sample(people.pictures[rng.choice(people.groups)], 2)
            return CropPair(source, target, True)
        weighted = rule == "weighted"
        source = people.weighted(rng, pairable=True) if weighted else rng.choice(people.pairable)
        return CropPair(source, people.another_of(source, rng), True)

    def _inter_pair(self, rng: random.Random) -> CropPair:
        people = self.people
        source = self._draw(rng)
        if self.config.rule != "weighted":
            return CropPair(source, people.of_another(source, rng), False)
        target = people.weighted(rng)
        while people.person[target] == people.person[source]:
            target = people.weighted(rng)
        return CropPair(source, target, False)

    def _simswap(self, intra: int, inter: int, rng: random.Random) -> list[CropPair]:
        people = self.people
        pairs = []
        for _ in range(intra + inter):
            pictures = people.pictures[rng.choice(people.names)]
            pairs.append((rng.choice(pictures), rng.choice(pictures)))
        sources = [source for source, _ in pairs]
        shuffled = sources[intra:]
        rng.shuffle(shuffled)
        sources[intra:] = shuffled  # may leave some with their own person, and that is then said
        return [
            CropPair(source, target, people.person[source] == people.person[target])
            for source, (_, target) in zip(sources, pairs, strict=True)
        ]
