"""One pipeline in many threads, processes and copies."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from facke_cli.samples import sample_or_path
from facke_core import SwapPipeline, load
from facke_core.building import LazyDetector
from facke_core.errors import UnavailableError, UsageError
from facke_core.faces import graphs
from facke_core.faces.detect import MediaPipeDetector, build_mediapipe
from facke_core.images.io import read_image, resize
from facke_core.plugins.registry import Registry, default_registry

pytest.importorskip("mediapipe", reason="the detector is not installed")

THREADS = 8


def small(name: str) -> Tensor:
    image = read_image(sample_or_path(f"sample:{name}")).image
    return resize(image[None], (240, 240 * image.shape[2] // image.shape[1]))[0]


@pytest.fixture(scope="module")
def photos() -> list[Tensor]:
    """Eight photos, of which each has its face at another place."""
    heads = small("collins"), small("hopper")
    return [
        torch.nn.functional.pad(heads[n % 2], (20 * n, 10, 5 * n, 3), value=0.4) for n in range(8)
    ]


def told(found: Any) -> list[bytes]:
    return [face.mesh.numpy().tobytes() for face in found]


def working_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def resident() -> int:
    """Megabytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def test_eight_threads_find_what_one_finds(photos: list[Tensor]) -> None:
    detector = LazyDetector(default_registry())
    alone = [told(build_mediapipe()(photo)) for photo in photos]
    assert all(alone)

    def fifty(first: int) -> list[bool]:
        order = [(first * 3 + n) % len(photos) for n in range(50)]
        return [told(detector(photos[n])) == alone[n] for n in order]

    with ThreadPoolExecutor(THREADS) as pool:
        right = list(pool.map(fifty, range(THREADS)))
    assert right == [[True] * 50] * THREADS


def test_eight_threads_swap_as_one_does(photos: list[Tensor]) -> None:
    pipeline = load("simswap")
    alone = [pipeline(photos[0], photo).image for photo in photos]

    def swap(n: int) -> bool:
        return torch.equal(pipeline(photos[0], photos[n]).image, alone[n])

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(pool.map(swap, [*range(8)] * 3))


def test_a_detector_is_built_once_by_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []

    def slow(**_: Any) -> object:
        built.append(object())
        torch.rand(400, 400).svd()
        return built[-1]

    monkeypatch.setattr("facke_core.building.make_detector", slow)
    lazy = LazyDetector(Registry())
    with ThreadPoolExecutor(THREADS) as pool:
        found = set(map(id, pool.map(lambda _: lazy.get(), range(THREADS))))
    assert len(built) == len(found) == 1


def test_stderr_is_there_again_after_many_threads_were_quiet() -> None:
    before = os.fstat(2)

    def silent(_: int) -> None:
        with graphs._quiet():
            torch.rand(200, 200).svd()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(silent, range(40)))
    assert os.path.samestat(os.fstat(2), before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_two_hundred_detectors_cost_as_much_as_one(photos: list[Tensor]) -> None:
    def use() -> None:
        LazyDetector(default_registry())(photos[0])
        gc.collect(0)

    for _ in range(3):
        use()
    threads, memory = working_threads(), resident()
    for _ in range(200):
        use()
    assert working_threads() <= threads + 1
    assert resident() < memory + 60


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_closing_the_last_detector_frees_the_graphs(photos: list[Tensor]) -> None:
    threshold = 0.61  # of no other test
    other = build_mediapipe(threshold=threshold)
    before = working_threads()
    with build_mediapipe(threshold=threshold) as detector:
        expected = told(detector(photos[0]))
        other(photos[0])
        during = working_threads()
    assert during > before
    assert working_threads() == during  # the other one is still there
    other.close()
    assert working_threads() < during
    other.close()
    assert told(other(photos[0])) == expected
    other.close()


def test_a_pipeline_closes_its_detector() -> None:
    closed: list[str] = []

    class Closing:
        threshold = 0.5

        def __call__(self, photo: Tensor) -> list[Any]:
            return []

        def close(self) -> None:
            closed.append("detector")

    with load("simswap") as pipeline:
        pipeline.detector = Closing()
    assert closed == ["detector"]


def test_a_failed_graph_is_built_anew(photos: list[Tensor]) -> None:
    class Broken:
        def process(self, _: Any) -> Any:
            raise ValueError("Graph has errors")

        def close(self) -> None:
            raise RuntimeError("it was closed by an error")

    detector = build_mediapipe(threshold=0.62)
    expected = told(detector(photos[0]))
    made = detector._graphs._graphs
    assert made is not None
    for place in range(3):
        detector._graphs._graphs = (*made[:place], Broken(), *made[place + 1 :])
        assert told(detector(photos[0])) == expected
    detector.close()


def test_what_fails_twice_is_a_facke_error(
    photos: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def process(self, _: Any) -> Any:
            raise RuntimeError("no memory")

        def close(self) -> None:
            pass

    monkeypatch.setattr(graphs, "_build", lambda _: (Broken(),) * 3)
    with pytest.raises(UnavailableError, match=r"failed twice on 250 x 243 pixels.*no memory"):
        build_mediapipe(threshold=0.63)(photos[0])


FORK = """
import os, signal, sys, torch
from facke_cli.samples import sample_or_path
from facke_core import load
pictures = [sample_or_path(f"sample:{name}") for name in ("collins", "hopper")]
pipeline = load("simswap")
pipeline(*pictures)
torch.set_num_threads(1)
expected = pipeline(*pictures).image
child = os.fork()
if not child:
    signal.alarm(90)
    for _ in range(2):
        same = torch.equal(pipeline(*pictures).image, expected)
    print("child", same, torch.get_num_threads(), flush=True)
    sys.exit(0 if same else 1)
_, status = os.waitpid(child, 0)
print("parent", torch.equal(pipeline(*pictures).image, expected), status, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_swaps_as_its_parent_does() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.splitlines() == ["child True 1", "parent True 0"], done.stderr


def swapped(job: tuple[SwapPipeline, Tensor]) -> Tensor:
    pipeline, photo = job
    torch.set_num_threads(1)
    return pipeline(photo, photo).image


def test_a_pipeline_goes_to_a_spawned_process(photos: list[Tensor]) -> None:
    pipeline = load("simswap")
    expected = pipeline(photos[0], photos[0]).image
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (there,) = pool.map(swapped, [(pipeline, photos[0])])
    assert (there - expected).abs().max() < 1e-4


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_swaps_as_the_original_does(copied: Any, photos: list[Tensor]) -> None:
    pipeline = load("simswap")
    other = copied(pipeline)
    assert torch.equal(other(photos[0], photos[1]).image, pipeline(photos[0], photos[1]).image)
    shares = other.method.generator is pipeline.method.generator
    assert shares is (copied is copy.copy)


def test_what_cannot_be_pickled_says_so() -> None:
    pipeline = load("simswap", registry=by_hand())
    with pytest.raises(UsageError, match="registry that was filled by hand"):
        pickle.dumps(pipeline)
    assert copy.deepcopy(pipeline).registry is pipeline.registry


def by_hand() -> Registry:
    import facke_core.plugins.core
    import facke_gan.plugin

    registry = Registry()
    registry.register(facke_core.plugins.core, "facke-core")
    registry.register(facke_gan.plugin, "facke-gan")
    return registry


def test_a_detector_is_pickled_as_its_settings() -> None:
    detector = pickle.loads(pickle.dumps(build_mediapipe(threshold=0.64, max_faces=3)))
    assert isinstance(detector, MediaPipeDetector)
    assert (detector.threshold, detector.max_faces) == (0.64, 3)
