"""MediaPipe's graphs: one set per process and threshold, called on one thread.

A set is 48 MB and six threads, mixes up what two threads give it at once, answers nothing any more
after one failed call, and does not survive a fork. So detectors share their graphs, and here they
wait for each other; a graph that failed, or that a process inherited, is built anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from facke_core.environment import ForkSafeLock
from facke_core.errors import UnavailableError
from facke_core.faces.boxes import Pixels

__all__: list[str] = []

LONGEST = 16384
"""Sides in pixels from which a picture is thinned out first: from 32767 on, OpenCV ends the whole
process."""
_MOST_FACES = 4
"""Number of faces that the mesh looks for in a crop."""
_PROTOBUF = r"google\.protobuf"
MESH = 2
"""Place of the graph after those of the two detectors."""
T = TypeVar("T")


class Found(NamedTuple):
    """What a detector says of one face, in shares of the sides of the picture that it saw."""

    box: tuple[float, float, float, float]
    """Left and upper edge, width and height."""
    eyes: tuple[float, float, float, float]
    """x and y of both eyes, the one that is left in an upright picture first."""
    score: float


def mediapipe_available() -> str:
    """The reason why the detector cannot be used here, and what to do; empty if it can."""
    if importlib.util.find_spec("mediapipe") is None:
        return 'the package mediapipe is not installed. Run: pip install "facke-core[faces]"'
    try:
        _solutions()
    except Exception as error:  # a missing system library surfaces as one of many types
        reason = f"mediapipe cannot be used: {error}. "
        if "lib" in str(error) and ".so" in str(error):
            return reason + "Install the system library, e.g.: apt-get install libgl1 libegl1"
        return reason + 'Run: pip install --force-reinstall "facke-core[faces]"'
    return ""


class Graphs:
    """The detectors for short and full range, and the mesh, of one threshold.

    They are built at the first call. Whoever calls them is a user; they are freed when the last
    user has left, and built again if one comes back.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._graphs: tuple[Any, ...] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()

    def boxes(self, pixels: Pixels, user: object) -> list[list[Found]]:
        """The faces of a picture (H, W, 3) uint8, of any size, by each of the two detectors."""
        step = -(-max(pixels.shape[:2]) // LONGEST)
        seen = np.ascontiguousarray(pixels[::step, ::step])
        answers = _worked(lambda: [self.run(which, seen, user).detections for which in (0, 1)])
        return [[_found(detection) for detection in detections or ()] for detections in answers]

    def meshes(self, crop: Pixels, user: object) -> list[Tensor]:
        """The meshes (478, 2) of the faces of a square crop, in shares of its side."""
        answer = _worked(lambda: self.run(MESH, crop, user)).multi_face_landmarks or ()
        return [torch.tensor([(p.x, p.y) for p in mesh.landmark]) for mesh in answer]

    def leave(self, user: object) -> None:
        """Take the user off the list, and free the graphs if it was the last one."""
        _worked(lambda: self._leave(user))

    def _leave(self, user: object) -> None:
        self._users.discard(user)
        if not self._users:
            self._free()

    def run(self, which: int, pixels: Pixels, user: object) -> Any:
        """What a graph says, on the thread that is for it.

        Raises:
            UnavailableError: it fails, and does so again after it was built anew.
        """
        self._users.add(user)
        if not any(getattr(rule[3], "pattern", "") == _PROTOBUF for rule in warnings.filters):
            # for good: to put filters back would undo what other threads set meanwhile
            warnings.filterwarnings("ignore", category=UserWarning, module=_PROTOBUF)
        try:
            return self._ready()[which].process(pixels)
        except Exception:  # of whatever type; it answers nothing any more
            self._free()
        try:
            return self._ready()[which].process(pixels)
        except Exception as error:
            self._free()
            height, width = pixels.shape[:2]
            raise UnavailableError(
                f"MediaPipe failed twice on {width} x {height} pixels ({type(error).__name__}: "
                f"{error}). Make memory free, or try another size of the picture."
            ) from error

    def _ready(self) -> tuple[Any, ...]:
        if self._graphs is None:
            self._graphs = _build(self.threshold)
        return self._graphs

    def _free(self) -> None:
        graphs, self._graphs = self._graphs or (), None
        for graph in graphs:
            with contextlib.suppress(Exception):  # of a graph that failed, once more
                graph.close()

    def forget(self) -> None:
        """Let go of graphs that another process made, without touching them: their threads are
        not here, and to close or free them would wait for those for ever."""
        for graph in self._graphs or ():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(graph))
        self._graphs = None


_shared: dict[float, Graphs] = {}
_worker: ThreadPoolExecutor | None = None
_sharing = ForkSafeLock()


def shared_graphs(threshold: float) -> Graphs:
    """The graphs of a threshold, which all detectors of this process use."""
    with _sharing:
        return _shared.setdefault(threshold, Graphs(threshold))


def _worked(job: Callable[[], T]) -> T:
    """The result of a job on the one thread of this process that touches graphs.

    So calls wait for each other, an interrupt (Ctrl-C) leaves no graph halfway, and what MediaPipe
    keeps per thread is no inheritance: built on a thread that had graphs before the fork, a graph
    breaks the memory of the child.
    """
    global _worker
    with _sharing:
        if _worker is None:
            _worker = ThreadPoolExecutor(1, thread_name_prefix="facke-mediapipe")
        future = _worker.submit(job)
    return future.result()


def _in_child() -> None:
    global _worker
    _worker = None
    for graphs in _shared.values():
        graphs.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _build(threshold: float) -> tuple[Any, ...]:
    solutions = _solutions()
    with _quiet():
        graphs = (
            *(
                solutions.face_detection.FaceDetection(
                    model_selection=model, min_detection_confidence=threshold
                )
                for model in (0, 1)  # short and full range
            ),
            solutions.face_mesh.FaceMesh(
                static_image_mode=True,
                refine_landmarks=True,
                max_num_faces=_MOST_FACES,
                min_detection_confidence=min(threshold, 0.5),
            ),
        )
        for graph in graphs:  # their threads write while they start
            graph.process(np.zeros((64, 64, 3), np.uint8))
    return graphs


def _found(detection: Any) -> Found:
    place = detection.location_data
    box, eyes = place.relative_bounding_box, place.relative_keypoints
    return Found(
        (box.xmin, box.ymin, box.width, box.height),
        (eyes[0].x, eyes[0].y, eyes[1].x, eyes[1].y),
        float(detection.score[0]),
    )


def _solutions() -> Any:
    with _quiet(), _without_pyplot():
        import mediapipe
        from mediapipe.python import solutions

    models = Path(mediapipe.__file__).parent / "modules"
    if not (models / "face_landmark" / "face_landmark_with_attention.tflite").is_file():
        raise ImportError("this version carries no models (0.10.14 is the last one that does)")
    return solutions


@contextmanager
def _without_pyplot() -> Iterator[None]:
    """Keep mediapipe from importing matplotlib for its drawing helpers: half of its import."""
    names = ("matplotlib", "matplotlib.pyplot")
    if any(name in sys.modules for name in names):
        yield
        return
    stand_ins = {name: types.ModuleType(name) for name in names}
    stand_ins["matplotlib"].pyplot = stand_ins["matplotlib.pyplot"]  # type: ignore[attr-defined]
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


_silence = ForkSafeLock(held_by_fork=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard what C++ threads write to the process's stderr: logs that no option silences.

    One thread at a time, and no fork meanwhile: who came second would keep the silence for the
    stderr, and put that back for good.
    """
    with _silence:
        try:
            kept = os.dup(2)
        except OSError:  # there is no stderr
            yield
            return
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nothing)
