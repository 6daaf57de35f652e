"""Skin tones of faces, and the results of an evaluation by them.

The tone is the individual typology angle (Chardon et al., Int. J. Cosmet. Sci. 1991) of the
picture, light and camera included: a person is not of one class in all photographs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from facke_core.evaluation.statistics import Estimate

if TYPE_CHECKING:
    from torch import Tensor

    from facke_core.types import Face

__all__: list[str] = []

GREY: Literal["grey"] = "grey"
"""The tone of a picture without colours: black and white, or one tint."""
Tone = float | Literal["grey"] | None
"""Angle in degrees; None: nobody can tell, as there is no mesh or the skin is covered."""
CLASSES = (
    ("very light", 55.0),
    ("light", 41.0),
    ("intermediate", 28.0),
    ("tan", 10.0),
    ("brown", -30.0),
    ("dark", -180.0),
)
"""Classes, and the angle above which each begins."""
NAMES = (*(name for name, _ in CLASSES), GREY, "unknown")
"""Names of the groups, in the order of reports."""
MARGINS = {"id-gain": 0.05, "artefacts": 1.5}
"""Metric -> by how much a class may be worse than the best one without a warning. Photographs of
classes differ by up to 1.2 in ``artefacts``."""
ENOUGH = 20
"""Pairs of which a class has to have a value before anything is said about it."""
Groups = Mapping[str, Mapping[str, Mapping[str, Estimate]]]
"""``source`` or ``target`` -> group -> metric -> estimate over the pairs of that group."""
_FOREHEAD = (103, 67, 109, 10, 338, 297, 332, 333, 299, 337, 151, 108, 69, 104)
_CHEEKS = ((117, 118, 101, 36, 205, 50), (346, 347, 330, 266, 425, 280))
_BARE = 0.1
"""Share of a pixel that may be covered."""
_PIXELS = 64
"""Least number of pixels of bare skin, of a crop of 128 x 128."""


def tone_of(photo: Tensor, face: Face | None) -> Tone:
    """The typology angle of the median skin of cheeks and forehead, where nothing covers it.

    Args:
        photo: (3, H, W) in [0, 1].
        face: the face in it.
    """
    if face is None or face.mesh is None:
        return None
    import torch
    from kornia.color import rgb_to_lab

    from facke_core.errors import NoFaceError
    from facke_core.faces.align import align, transform_points
    from facke_core.faces.areas import inside
    from facke_core.faces.colour import is_toned
    from facke_core.faces.occlusion import FRAMING, occlusion
    from facke_core.faces.paste import face_hull

    try:
        seen = align(photo, face, FRAMING)
    except NoFaceError:  # a mesh that is no face
        return None
    size = FRAMING.size
    if is_toned(seen.crop, face_hull(seen, size)):
        return GREY
    bare = occlusion(photo, [seen], size)[0] < _BARE
    mesh = transform_points(seen.matrix[None].double(), face.mesh[None].double())[0]
    skin = (inside(mesh, (_FOREHEAD, *_CHEEKS), size) > 0.5) & bare
    if int(skin.sum()) < _PIXELS:
        return None
    lightness, _, yellow = rgb_to_lab(seen.crop)[:, skin[0]].double().median(1).values
    return float(f"{torch.atan2(lightness - 50, yellow).rad2deg():.9g}")


def group_of(tone: Tone) -> str:
    """The name of the group, out of :data:`NAMES`."""
    if tone is None:
        return NAMES[-1]
    if isinstance(tone, str):
        return tone
    return next(name for name, above in CLASSES if tone > above or name == CLASSES[-1][0])


def facts() -> dict[str, Any]:
    """What decides the groups and their warnings, for the protocol of a report."""
    return {"above": dict(CLASSES), "margins": dict(MARGINS), "enough": ENOUGH}


def warnings_of(groups: Groups, higher_is_better: Mapping[str, bool]) -> list[str]:
    """Say in which classes a metric of :data:`MARGINS` is worse than in the best class.

    It has to be worse by more than the margin, with :data:`ENOUGH` pairs in both classes, and the
    two intervals have to lie apart.
    """
    lines = []
    for side, by_name in groups.items():
        for metric, margin in MARGINS.items():
            sign = 1 if higher_is_better.get(metric) else -1
            told = []
            for name, _ in CLASSES:
                e = by_name.get(name, {}).get(metric)
                if e is None or e.value is None or e.low is None or e.high is None:
                    continue
                if e.n >= ENOUGH:
                    low, high = sorted((sign * e.low, sign * e.high))
                    told.append((sign * e.value, low, high, f"({e.value:.4g}, {e.n} pairs)", name))
            if not told:
                continue
            best, low, _, top, of = max(told)
            lines += [
                f"{metric} is worse where the {side} is {name} {figures} than where it is {of} "
                f"{top}, by more than {margin:g}"
                for value, _, high, figures, name in told
                if best - value > margin and high < low
            ]
    return lines
