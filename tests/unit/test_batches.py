"""``facke_core.data.batches``: the same samples for everybody who asks."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch import Tensor

from facke_core.data import sending
from facke_core.data.batches import BatchConfig, SwapBatches, stream
from facke_core.data.crops import CropSet
from facke_core.errors import DataError
from facke_core.types import FaceBatch
from standins import meshes

SIZE = 32


def crop_set(n: int = 12) -> CropSet:
    rng = torch.Generator().manual_seed(0)
    return CropSet(
        images=torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=rng, dtype=torch.uint8),
        mesh=meshes(n, SIZE, rng),
        embeddings=torch.nn.functional.normalize(torch.randn(n, 2, 8, generator=rng), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.ones(n),
        info={"name": "tiny"},
    )


def batches(config: BatchConfig, size: int = 6, seed: int = 3) -> SwapBatches:
    return SwapBatches(crop_set(), batch_size=size, config=config, seed=seed)


def same(a: FaceBatch, b: FaceBatch) -> bool:
    return all(
        x is y or (x is not None and y is not None and torch.equal(x, y))
        for x, y in zip(a, b, strict=True)
    )


PLAIN = BatchConfig(intra=0.5, colour_jitter=0.0)
RICH = BatchConfig(composite=0.5, intra=0.25, occluders=0.5)


def test_batch_k_is_a_function_of_seed_and_k_alone() -> None:
    first, second = batches(RICH), batches(RICH)
    torch.manual_seed(99)
    second.read(5)
    assert same(first.read(7), second.read(7))
    assert not torch.equal(first.read(7).target, first.read(8).target)
    assert not torch.equal(first.read(7).target, batches(RICH, seed=4).read(7).target)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("config", [RICH, replace(RICH, grouping=True, schedule="alternate")])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (2, 1), (2, 2)])
def test_workers_processes_and_parts_give_the_same_samples(
    config: BatchConfig, workers: int, processes: int, parts: int
) -> None:
    size, start = 8, 3
    expected = [batches(config, size).read(step) for step in range(start, start + 3)]
    streams = [
        stream(
            batches(config, size),
            range(start, 100),
            process=process,
            processes=processes,
            parts=parts,
            workers=workers,
        )
        for process in range(processes)
    ]
    shares = [list(islice(steps, 3)) for steps in streams]
    for k, whole in enumerate(expected):
        rebuilt = whole.each(torch.empty_like)
        for process in range(processes):
            for part in range(parts):
                for into, piece in zip(rebuilt, shares[process][k][part], strict=True):
                    if into is not None:
                        assert piece is not None
                        into[process + part * processes :: processes * parts] = piece
        assert same(rebuilt, whole)


@pytest.mark.parametrize("config", [PLAIN, RICH])
def test_batches_that_shared_memory_cannot_take_arrive_all_the_same(
    config: BatchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [batches(config).read(step) for step in range(2)]
    sent = sending.to_send([expected[0]], workers=1)
    assert sent[0] is expected[0]
    monkeypatch.setattr(sending, "free_bytes", lambda: 1000)
    (sent,) = sending.to_send([expected[0]], workers=1)
    assert not any(isinstance(value, Tensor) for value in sent)  # nothing of it is shared
    assert sent[0].dtype == np.uint8
    for whole, (part,) in zip(expected, stream(batches(config), range(2), workers=1), strict=True):
        assert same(part, whole)
        assert [getattr(x, "dtype", None) for x in part] == [
            getattr(x, "dtype", None) for x in whole
        ]


class Killed(SwapBatches):
    """Batches whose reader dies as it does where /dev/shm is full."""

    def read(self, step: int, rows: slice = slice(None)) -> FaceBatch:
        os.kill(os.getpid(), signal.SIGBUS)
        raise AssertionError


def test_a_reader_that_dies_names_the_likely_cause_and_what_to_do() -> None:
    dying = Killed(crop_set(), batch_size=6, config=PLAIN, seed=0)
    with pytest.raises(DataError, match=r"/dev/shm has \d+ MB.*`workers=0`"):
        list(stream(dying, range(2), workers=1))


def test_an_intra_pair_is_one_picture_and_its_own_reference() -> None:
    batch = batches(replace(PLAIN, intra=1.0)).read(0)
    assert batch.same_identity.all()
    assert torch.equal(batch.source, batch.target)
    assert torch.equal(batch.reference, batch.target)


def picture_of(crops: CropSet, image: Tensor) -> tuple[int, bool]:
    """Which crop it is, and whether it is mirrored."""
    images = crops.images[:].float() / 255
    pictures = torch.cat([images, images.flip(-1)])
    index = int((pictures - image).abs().flatten(1).sum(1).argmin())
    return index % len(crops), index >= len(crops)


@pytest.mark.parametrize("grouping", [True, False])
def test_the_identity_is_that_of_the_source(grouping: bool) -> None:
    crops = crop_set()
    batch = batches(replace(PLAIN, grouping=grouping), size=24).read(0)
    for source, target, identity, is_same in zip(
        batch.source, batch.target, batch.identity, batch.same_identity, strict=True
    ):
        (a, mirrored), (b, _) = picture_of(crops, source), picture_of(crops, target)
        assert torch.equal(crops.embeddings[a, int(mirrored)], identity)
        assert (crops.people[a] == crops.people[b]) == is_same
        assert not (grouping and a == b)


def test_a_composite_pair_asks_for_the_untouched_photograph() -> None:
    batch = batches(BatchConfig(composite=1.0, colour_jitter=0.0)).read(2)
    assert batch.same_identity.all()
    assert torch.equal(batch.reference, batch.source)
    assert not torch.equal(batch.target, batch.reference)


def test_colour_jitter_changes_target_and_reference_alike() -> None:
    plain = batches(replace(PLAIN, intra=1.0)).read(0)
    jittered = batches(replace(PLAIN, intra=1.0, colour_jitter=0.3)).read(0)
    assert torch.equal(jittered.target, jittered.reference)
    assert not torch.equal(jittered.target, plain.target)


def test_nothing_is_mirrored_where_it_is_not_asked_for() -> None:
    batch = batches(replace(PLAIN, mirror=False), size=16).read(0)
    assert not any(picture_of(crop_set(), image)[1] for image in batch.target)


def test_composites_need_mesh_points() -> None:
    crops = replace(crop_set(), mesh=None)
    with pytest.raises(DataError, match=r"data\.composite=0"):
        SwapBatches(crops, batch_size=4, config=RICH, seed=0)
    SwapBatches(crops, batch_size=4, config=PLAIN, seed=0).read(0)
