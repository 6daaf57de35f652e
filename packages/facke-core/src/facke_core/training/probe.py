"""The swap probe: does the model swap yet, or does it only copy the target?

Losses do not tell: a generator that returns its target pleases reconstruction and discriminator,
and its identity loss falls on intra pairs as if it swapped. So a few fixed faces are put on each
other during the training, and a recogniser says how much of the source arrived and how much of
the target stayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from facke_core.errors import DataError, check_ranges
from facke_core.images.grid import face_matrix
from facke_core.losses.functional import reconstruction_l1
from facke_core.protocols import Generator, IdentityEncoder, Sampler
from facke_core.types import SwapInputs

__all__ = ["ProbeConfig", "ProbeReport"]

BATCH = 8
"""Pairs that are swapped at a time."""
CELL = 128
"""Largest side of a face in the preview, in pixels."""
GAINED, LEFT, KEPT, CHANGED = 0.05, 0.8, 0.5, 0.02
"""The bounds of the warning. A model only reconstructs where ``swap(x, x)`` keeps at least ``KEPT``
of the identity of x, and another source makes no difference: less than ``GAINED`` is gained, more
than ``LEFT`` of what ``swap(x, x)`` keeps is left, and the results are less than ``CHANGED`` (of 1)
farther from their targets than ``swap(x, x)`` from x. The measure is ``swap(x, x)``, because a
blurred copy is a copy, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """When a training is probed, and with what.

    Raises:
        ConfigError: fewer than two faces or more than 64, or a negative ``every``.
    """

    every: int = 0
    """Steps between two probes; 0: never."""
    faces: int = 5
    """Size of the panel. Every face of it is put on every other and on itself."""
    encoder: Mapping[str, Any] | None = None
    """The judge, as ``identity_encoder`` of a recipe. None: the encoder that trains the model.
    That one flatters, because the model learns to please just it; take another to compare runs."""
    patience: int = 1000
    """Steps before the warning may come; a model reconstructs before it swaps."""
    preview: bool = True
    """Make the picture of all results."""

    def __post_init__(self) -> None:
        check_ranges(self, "probe", faces=(2, 64), every=(0, 10**9), patience=(0, 10**9))


class Faces(Protocol):
    """What the probe reads of a :class:`~facke_core.data.crops.CropSet`."""

    @property
    def images(self) -> Any:
        """The crops: ``images[index]`` of (B,) int64 is (B, 3, S, S) uint8."""

    @property
    def embeddings(self) -> Tensor: ...
    @property
    def mesh(self) -> Tensor | None: ...
    @property
    def people(self) -> Tensor: ...
    @property
    def weights(self) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What a probe saw. J is the judge, s and t are two different faces of the panel; means are
    over all ordered pairs (s, t). NaN where the model returns NaN."""

    step: int
    """Steps that the training had finished."""
    gained: float
    """Mean of ``cos(J(swap(s, t)), J(s)) - cos(J(t), J(s))``: 0 for a copy of the target."""
    left: float
    """Mean of ``cos(J(swap(s, t)), J(t))``: 1 for a copy of the target."""
    top1: float
    """Share of results whose nearest face of the panel is the source."""
    changed: float
    """Mean of ``|swap(s, t) - t|`` over all pixels, in [0, 1]."""
    retrieval: float
    """The paper's ID Retrieval: mean of ``1 - cos(J(swap(s, t)), J(s))``."""
    reconstruction: float
    """The paper's Recon: mean of ``|swap(x, x) - x|`` in ImageNet standard deviations."""
    preview: Tensor | None = field(default=None, compare=False, repr=False)
    """Picture (3, H, W) in [0, 1]: sources down, targets across; None where not asked for."""
    warning: str = ""
    """Advice for a model that only reconstructs, else empty; see :class:`SwapProbe`."""

    @property
    def score(self) -> float:
        """The sum ``retrieval + reconstruction``. The paper keeps the weights with the lowest one,
        the first of equals."""
        return self.retrieval + self.reconstruction

    @property
    def values(self) -> dict[str, float]:
        """The numbers for the log: ``{"probe.gained": ...}``."""
        names = ("gained", "left", "top1", "changed", "retrieval", "reconstruction", "score")
        return {f"probe.{name}": getattr(self, name) for name in names}


class SwapProbe:
    """A probe puts the faces of a small fixed panel on each other: ``probe(generator, step)``.

    The warning comes in the first probe at or after ``config.patience`` that finds a model which
    only reconstructs, and not again until a probe has found one that swaps. This is all that a
    probe remembers, so a resumed training may warn once more.

    Args:
        faces: where the panel is taken from (:func:`choose_panel`). Faces that the model is not
            trained on tell more.
        config: see :class:`ProbeConfig`; its ``encoder`` is built by the caller and comes as
            ``judge``.
        sampler: the method's way of inferring.
        encoder: the encoder that trains the model, and made ``faces.embeddings[:, 0]``.
        judge: the encoder that measures; by default ``encoder``. It stays on its device.
        seed: seed of the noise that the sampler draws, the same in every probe.

    Raises:
        DataError: the faces show fewer than two people.
    """

    def __init__(
        self,
        faces: Faces,
        *,
        config: ProbeConfig,
        sampler: Sampler[Any],
        encoder: IdentityEncoder,
        judge: IdentityEncoder | None = None,
        seed: int = 0,
    ) -> None:
        self.config, self.sampler, self.seed = config, sampler, seed
        self.judge = encoder if judge is None else judge
        self.panel = choose_panel(faces.people, faces.weights, config.faces)
        self._images = faces.images[self.panel].float() / 255
        self._identity = faces.embeddings[self.panel, 0].float()
        self._mesh = None if faces.mesh is None else faces.mesh[self.panel].float()
        self._only_reconstructs = False

    def __call__(self, generator: Generator, step: int) -> ProbeReport:
        """Swap the whole panel, without gradients and in evaluation mode.

        The training mode of every part of ``generator`` and torch's random state are as before.
        """
        n, images = len(self.panel), self._images
        with _undisturbed(generator):
            results = self._swap(generator)
            known, seen = self._look(images), self._look(results)
        # (source, target, face): how much the result looks like each face of the panel
        alike = (seen @ known.T).view(n, n, n)
        faces = torch.arange(n)
        to_source = alike[faces, :, faces]
        to_target = alike[:, faces, faces]
        nearest = (alike.argmax(dim=2) == faces[:, None]).float()
        targets = images.repeat(n, 1, 1, 1)
        distance = reconstruction_l1(results, targets).view(n, n)
        other = ~torch.eye(n, dtype=torch.bool)

        own = results[:: n + 1]
        report = ProbeReport(
            step=step,
            gained=float((to_source - known @ known.T)[other].mean()),
            left=float(to_target[other].mean()),
            top1=float(nearest[other].mean()),
            changed=float(distance[other].mean()),
            retrieval=float((1 - to_source)[other].mean()),
            reconstruction=float(reconstruction_l1(own, images, units="imagenet").mean()),
            preview=self._preview(results) if self.config.preview else None,
        )
        kept, rebuilt = to_target.diagonal().mean(), distance.diagonal().mean()
        return self._with_warning(report, float(kept), float(rebuilt))

    def _swap(self, generator: Generator) -> Tensor:
        """Return the results (n * n, 3, S, S) on the CPU; number ``i * n + j`` is face i on j."""
        n, device = len(self.panel), _device(generator)
        rng, mesh = torch.Generator().manual_seed(self.seed), self._mesh
        pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n))
        results = []
        for source, target in (x.T for x in torch.split(pairs, BATCH)):
            inputs = SwapInputs(
                source=self._images[source].to(device),
                target=self._images[target].to(device),
                identity=self._identity[source].to(device),
                source_mesh=None if mesh is None else mesh[source].to(device),
                target_mesh=None if mesh is None else mesh[target].to(device),
            )
            results.append(self.sampler(generator, inputs, rng=rng).float().cpu())
        return torch.cat(results)

    def _look(self, images: Tensor) -> Tensor:
        """Return the judge's embeddings (B, D) on the CPU."""
        device = _device(self.judge)
        parts = [self.judge(x.to(device)).float().cpu() for x in torch.split(images, BATCH)]
        return torch.cat(parts)

    def _preview(self, results: Tensor) -> Tensor:
        n, faces = len(self.panel), list(self._images)
        cells = [list(results[i * n : (i + 1) * n]) for i in range(n)]
        return face_matrix(faces, faces, cells, size=min(faces[0].shape[-1], CELL))

    def _with_warning(self, found: ProbeReport, kept: float, rebuilt: float) -> ProbeReport:
        """Add the warning where it is due; ``kept`` and ``rebuilt`` are ``left`` and ``changed`` of
        ``swap(x, x)``."""
        if found.step < self.config.patience:
            return found
        warned, self._only_reconstructs = (
            self._only_reconstructs,
            kept >= KEPT
            and found.gained < GAINED
            and found.left > LEFT * kept
            and found.changed - rebuilt < CHANGED,
        )
        if warned or not self._only_reconstructs:
            return found
        return replace(found, warning=_warning(found, kept, rebuilt))


def choose_panel(people: Tensor, weights: Tensor, faces: int) -> Tensor:
    """Choose the crops that make the panel; nothing about it is random.

    ``faces`` different people, or all there are. Preferred are those with the largest ``weights``
    (colour before black-and-white), spread evenly over the numbers of the people; of each the
    crop with the largest weight, the first of equals.

    Args:
        people: numbers (N,) int64 of the person on each crop.
        weights: preferences (N,) float of the crops.
        faces: how many people are wanted.

    Returns:
        Indices (faces,) int64 of crops, in the order of the people's numbers.

    Raises:
        DataError: fewer than two people.
    """
    by_weight = torch.argsort(weights, descending=True, stable=True)
    order = by_weight[torch.argsort(people[by_weight], stable=True)]
    own = people[order]
    first = torch.ones(len(own), dtype=torch.bool)
    first[1:] = own[1:] != own[:-1]
    best = order[first]
    if len(best) < 2:
        raise DataError(
            f"The swap probe needs two people, the faces show {len(best)}. Add people to the "
            "dataset, or leave the probe out with `overrides=['probe.every=0']`."
        )
    if len(best) <= faces:
        return best
    least = weights[best].sort(descending=True).values[faces - 1]
    sure, equal = best[weights[best] > least], best[weights[best] == least]
    missing = faces - len(sure)
    spread = (torch.arange(missing) * 2 + 1) * len(equal) // (2 * missing)
    panel = torch.cat([sure, equal[spread]])
    return panel[torch.argsort(people[panel])]


@contextmanager
def _undisturbed(generator: Generator) -> Iterator[None]:
    """Evaluate without gradients, while inside; all modes and torch's noise are as before then.

    Not ``inference_mode``: what a module caches there could never be trained with.
    """
    modules = list(generator.modules()) if isinstance(generator, nn.Module) else []
    modes = [module.training for module in modules]
    device = _device(generator)
    forked = [device] if device.type == "cuda" else []
    try:
        for module in modules:
            module.training = False
        with torch.no_grad(), torch.random.fork_rng(forked):
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _device(module: object) -> torch.device:
    if isinstance(module, nn.Module):
        for tensor in chain(module.parameters(), module.buffers()):
            return tensor.device
    return torch.device("cpu")


def _warning(found: ProbeReport, kept: float, rebuilt: float) -> str:
    return (
        f"At step {found.step} the model only reconstructs: its results gain {found.gained:z.2f} "
        f"of the source's identity and keep {found.left:.2f} of the target's (mean cosine; "
        f"swap(x, x) keeps {kept:.2f}), and they are as close to their targets as swap(x, x) to x "
        f"({found.changed:.3f} and {rebuilt:.3f} of 1). Copying the target is the cheapest answer "
        "when the reconstruction weighs too much against the identity, when too many pairs are "
        "intra pairs, or when skips or output=residual hand the target's face through and no "
        "composites are trained on. Look at the preview. If it shows the same, raise the weight of "
        "the identity (`overrides=['loss.identity.weight=...']`), or lower the share of intra "
        "pairs (`overrides=['data.schedule=mixed', 'data.intra=0.25']`), or train with composites "
        "(`overrides=['data.composite=0.5']`) or with a generator without skips."
    )
