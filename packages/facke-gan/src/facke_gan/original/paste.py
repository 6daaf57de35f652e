"""The paste-back of the original SimSwap, for comparison; :mod:`facke_core.faces.paste` is better.

Its sizes are pixels of the photo and do not follow the face: a face under about 40 pixels
vanishes, and around a large one the edge shows. Two faces are pasted one after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from facke_core.faces.align import invert_affine, warp

__all__ = ["blend_by_classes", "paste_original", "soft_erosion"]

FACE_CLASSES = (1, 2, 3, 4, 5, 6, 10, 12, 13)
"""Classes of a CelebAMask-HQ parsing that count as face: skin, brows, eyes, glasses, nose, lips."""
NECK_CLASSES = (7, 8, 14)
MOUTH_CLASS = 11


def class_planes(classes: Tensor, *, neck: bool = False) -> Tensor:
    """The masks (2, H, W) of face and mouth, 0 or 1, of a class map (H, W) of integers.

    With ``neck``, neck and ears count as face.
    """
    wanted = torch.tensor(FACE_CLASSES + (NECK_CLASSES if neck else ())).to(classes)
    return torch.stack([torch.isin(classes, wanted), classes == MOUTH_CLASS]).float()


def soft_erosion(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Erode a mask (B, 1, H, W) in [0, 1] six times by a 17 x 17 cone, and smooth it.

    Returns:
        The soft mask, and the hard one: where the smoothed mask reaches 0.9.
    """
    steps = torch.arange(17, dtype=torch.float32) - 8
    distance = torch.hypot(steps[:, None], steps[None])
    kernel = distance.max() - distance
    kernel = (kernel / kernel.sum())[None, None].to(mask)
    for _ in range(6):
        mask = torch.minimum(mask, F.conv2d(mask, kernel, padding=8))
    mask = F.conv2d(mask, kernel, padding=8)
    hard = mask >= 0.9
    rest = mask.masked_fill(hard, 0)
    return torch.where(hard, torch.ones_like(mask), rest / rest.amax().clamp(min=1e-12)), hard


def blend_by_classes(
    crop: Tensor, target: Tensor, classes: Tensor, *, neck: bool = False
) -> Tensor:
    """Blend the swapped crop, inside the parsed face, with the target crop elsewhere.

    Args:
        crop: (3, S, S) in [0, 1].
        target: (3, S, S) in [0, 1], the crop that was swapped.
        classes: (P, P) integers, the parsing of ``target``.
        neck: the neck and ears belong to the face.

    Returns:
        (3, S, S); the swapped crop alone where hardly any face was parsed.
    """
    planes = class_planes(classes, neck=neck)
    if planes.sum() * 255 < 5000:
        return crop
    mask = F.interpolate(planes[None], crop.shape[1:], mode="bilinear").sum(1, keepdim=True)
    soft = soft_erosion(mask)[0][0]
    return crop * soft + target * (1 - soft)


def paste_original(photo: Tensor, crop: Tensor, matrix: Tensor) -> Tensor:
    """The photo (3, H, W) with the whole crop (3, S, S) on it, through a blurred square.

    ``matrix`` (2, 3) maps photo to crop pixels. The square is eroded by 40 x 40 pixels and
    blurred over 41 x 41.
    """
    size = (photo.shape[1], photo.shape[2])
    back = invert_affine(matrix[None])
    image = torch.cat([crop, torch.ones_like(crop[:1])])
    placed = warp(image[None], back, size, border="zeros", antialias=False)
    white = (placed[:, 3:] > 20 / 255).float()
    # OpenCV's erosion: the window reaches from -20 to 19, what lies beyond the photo is white
    mask = -F.max_pool2d(-F.pad(white, (20, 19, 20, 19), value=1.0), 40, stride=1)
    mask = gaussian_blur2d(mask, (41, 41), (6.5, 6.5), border_type="reflect")[0]
    return photo + mask * (placed[0, :3] - photo)
