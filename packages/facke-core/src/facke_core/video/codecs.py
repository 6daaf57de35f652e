"""Which encoder makes a clip's pictures, in which format, and what that changes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from facke_core.environment import require
from facke_core.errors import ImageError, UsageError, check_choice
from facke_core.video.kinds import ANIMATED
from facke_core.video.media import Clip
from facke_core.video.pixels import working_format
from facke_core.video.timing import Plan

__all__: list[str] = []

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    **ANIMATED,
}
"""Ends of names that can be written -> the container."""
ENCODERS = {
    "h264": "libx264",
    "hevc": "libx265",
    "vp9": "libvpx-vp9",
    "av1": "libsvtav1",
    "ffv1": "ffv1",
    "prores": "prores_ks",
}
"""Codecs that can be written -> FFmpeg's encoders."""
DEFAULTS = {"webm": "vp9"}
CRF = {"h264": 18, "hevc": 20, "vp9": 24, "av1": 24}
"""Codecs with a constant quality -> the one that is taken; lower is better."""
HIGHEST_CRF = {"h264": 51, "hevc": 51, "vp9": 63, "av1": 63}
LOSSLESS = ("ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "magicyuv", "png", "qtrle")
THREADS = "4"
"""Threads of an encoder, wherever it runs: with another number it makes other bytes."""
OPTIONS = {
    # no B-frames: where frames are decoded in another order than shown, MP4 loses the length of the
    # last one. With its tree of macroblocks, x264 (core 165) makes other bytes now and then
    "h264": {"preset": "medium", "bf": "0", "x264-params": "mbtree=0", "threads": THREADS},
    "hevc": {
        "preset": "fast",
        "x265-params": "log-level=none:pools=4:frame-threads=2:bframes=0",
    },
    "vp9": {"deadline": "good", "cpu-used": "4", "row-mt": "1", "b": "0", "threads": THREADS},
    "av1": {"preset": "8", "svtav1-params": "lp=4"},
    "ffv1": {"level": "3", "threads": THREADS},
    "prores": {"threads": THREADS},
}
GOP = 250
"""Most frames from one at which decoding can begin to the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How the pictures of a clip are encoded; plain values."""

    container: str
    """FFmpeg's name of the container, or Pillow's of the format of animated pictures."""
    codec: str
    """One of :data:`ENCODERS`."""
    pix_fmt: str
    options: dict[str, str] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)
    """What the format of the pictures cannot keep, in words."""

    @property
    def animated(self) -> bool:
        """True where the clip becomes an animated picture."""
        return self.container in ANIMATED.values()


def choose(clip: Clip, out: Path, codec: str | None = None, crf: int | None = None) -> Encoding:
    """Choose how the pictures of a clip are encoded for a file.

    Args:
        clip: the clip.
        out: the file; the end of its name chooses the container.
        codec: one of :data:`ENCODERS`; None for the clip's own where that can be written.
        crf: the constant quality; None for :data:`CRF`.

    Raises:
        UsageError: no such codec, a container or a codec that does not take the other, a quality
            that is not possible.
        ImageError: the codec cannot keep the size or the transparency of the pictures.
    """
    container = container_of(out)
    if container in ANIMATED.values():
        if codec is not None or crf is not None:
            raise UsageError(
                f"{out} is an animated picture, which takes no codec and no crf. Leave `codec` and "
                "`crf` out."
            )
        name = "bgra" if clip.alpha else "bgr0"
        return Encoding(container=container, codec="ffv1", pix_fmt=name, options=OPTIONS["ffv1"])
    name = codec or _default(clip, container)
    check_choice("The codec", name, ENCODERS)
    with require("av").open(os.devnull, "w", format=container) as file:
        if ENCODERS[name] not in file.supported_codecs:
            able = [each for each in ENCODERS if ENCODERS[each] in file.supported_codecs]
            raise UsageError(
                f"{out} cannot hold {name}: {container} takes {', '.join(able)}. Choose one of "
                "them by `codec`, or the ending .mkv."
            )
    options = dict(OPTIONS[name])
    if name in CRF:
        quality = CRF[name] if crf is None else crf
        if not 0 <= quality <= HIGHEST_CRF[name]:
            raise UsageError(
                f"crf={quality} is not possible. {name} takes 0 to {HIGHEST_CRF[name]}, and less "
                "is better."
            )
        options["crf"] = str(quality)
    elif crf is not None:
        raise UsageError(f"{name} has no crf: its quality is fixed. Leave `crf` out.")
    pix_fmt, changes = _pix_fmt(clip, name, out)
    if name == "prores":
        options["profile"] = "4" if pix_fmt.startswith(("yuv444", "yuva444")) else "3"
    if name == "hevc" and clip.mastering:
        light = f":max-cll={clip.light}" if clip.light else ""
        options["x265-params"] += f":hdr10=1:master-display={clip.mastering}{light}"
    if clip.interlaced and name == "h264":
        options["flags"] = "+ildct+ilme"
        options["x264-params"] += ":tff=1" if clip.field_order in (0, 1, 2, 4) else ":bff=1"
    return Encoding(
        container=container, codec=name, pix_fmt=pix_fmt, options=options, changes=changes
    )


def container_of(out: Path) -> str:
    """The container that the end of a name asks for.

    Raises:
        ImageError: it can be written by none.
    """
    container = CONTAINERS.get(out.suffix.lower())
    if container is None:
        raise ImageError(
            f"{out} cannot be written: the extension {out.suffix!r} is none of "
            f"{', '.join(CONTAINERS)}. Choose one of them, e.g. {out.stem or 'out'}.mp4."
        )
    return container


def _default(clip: Clip, container: str) -> str:
    own = "ffv1" if clip.codec in LOSSLESS and container == "matroska" else clip.codec
    with require("av").open(os.devnull, "w", format=container) as file:
        if own in ENCODERS and ENCODERS[own] in file.supported_codecs:
            return own
    return DEFAULTS.get(container, "h264")


def _pix_fmt(clip: Clip, codec: str, out: Path) -> tuple[str, list[str]]:
    """The format of an encoder that keeps most of a clip's, and what it does not keep."""
    own = working_format(clip.pix_fmt)
    formats = [each.name for each in require("av").Codec(ENCODERS[codec], "w").video_formats]
    if codec == "vp9":
        deep = ("yuv420p", "yuv422p", "yuv444p")  # which the list of libvpx leaves out
        formats += [f"{name}{bits}le" for name in deep for bits in (10, 12)]
        formats = [each for each in formats if "a" not in each]  # kept in a stream of its own
    if codec == "hevc":
        formats = [each for each in formats if not each.startswith("yuva")]
    usable = [each for each in formats if _takes_size(each, codec, clip.size)]
    if not usable:
        width, height = clip.size
        raise ImageError(
            f"{out} cannot be written: {codec} takes even numbers of pixels only, and the clip has "
            f"{width} x {height}. Choose another codec, e.g. by `codec='vp9'`."
        )
    if own in usable:
        return own, []
    chosen = min(usable, key=lambda name: (*losses(own, name), usable.index(name)))
    alpha, bits, chroma, kind, *_ = losses(own, chosen)
    if alpha and clip.alpha:
        raise ImageError(
            f"{out} cannot be written: the clip is transparent in places, and {codec} keeps no "
            "transparency here. Write .mkv with `codec='ffv1'`, or .mov with `codec='prores'`."
        )
    lost = [
        *(["fewer bits"] if bits else []),
        *(["coarser colour"] if chroma else []),
        *(["RGB as YUV"] if kind else []),
    ]
    return chosen, [f"{clip.pix_fmt} becomes {chosen} ({', '.join(lost)})"] if lost else []


def _takes_size(name: str, codec: str, size: tuple[int, int]) -> bool:
    if codec not in ("h264", "hevc", "av1"):
        return True
    width, height = size
    across, down = _sharing(name)
    return width % across == 0 and height % down == 0


def _sharing(name: str) -> tuple[int, int]:
    """How many pixels share a sample of chroma, across and down."""
    form = require("av").VideoFormat(name, 64, 64)
    last = [part for part in form.components if part.is_chroma] or form.components[:1]
    return 64 // last[0].width, 64 // last[0].height


def losses(own: str, other: str) -> tuple[bool, bool, bool, bool, int, int, int]:
    """What is lost from one format to another: transparency, bits, detail of colour, RGB; then how
    much is added for nothing."""
    av = require("av")
    a, b = av.VideoFormat(own), av.VideoFormat(other)

    def bits(form: Any) -> int:
        return int(form.components[0].bits)

    def grey(form: Any) -> bool:
        return len(form.components) < 3

    alpha = [any(part.is_alpha for part in form.components) for form in (a, b)]
    (across, down), (other_across, other_down) = _sharing(own), _sharing(other)
    coarser = other_across > across or other_down > down
    return (
        alpha[0] and not alpha[1],
        bits(b) < bits(a),
        (coarser and not grey(a)) or (grey(b) and not grey(a)),
        a.is_rgb != b.is_rgb and not grey(a),
        int(alpha[1] and not alpha[0]),
        abs(bits(b) - bits(a)),
        abs(across * down - other_across * other_down),
    )


def add_stream(file: Any, clip: Clip, encoding: Encoding, plan: Plan) -> Any:
    """Add the stream of pictures to a file that is written, set up for its encoder.

    Args:
        file: a container of PyAV.
        clip: gives the size, the colours, and how pixels and pictures are shown.
        encoding: codec, format and options.
        plan: gives the time base, and the rate for the encoder to plan with.
    """
    name, options = ENCODERS[encoding.codec], dict(encoding.options)
    stream = file.add_stream(name, rate=plan.rate, options=options)
    context = stream.codec_context
    stream.width, stream.height = clip.size
    stream.pix_fmt = encoding.pix_fmt
    stream.time_base = context.time_base = plan.unit
    context.gop_size = GOP
    if clip.sample_aspect:
        context.sample_aspect_ratio = Fraction(clip.sample_aspect)
    if clip.colour:
        matrix = clip.colour[3]
        if _is_rgb(encoding.pix_fmt) != _is_rgb(working_format(clip.pix_fmt)):
            matrix = 2 if _is_rgb(encoding.pix_fmt) else 6
        context.color_range, context.color_primaries, context.color_trc = clip.colour[:3]
        context.colorspace = matrix
    if clip.interlaced:
        context.field_order = clip.field_order
    if clip.matrix:
        stream.set_display_matrix(clip.matrix)
    if encoding.codec == "hevc" and encoding.container in ("mp4", "mov"):
        context.codec_tag = "hvc1"
    return stream


def _is_rgb(name: str) -> bool:
    return bool(require("av").VideoFormat(name).is_rgb)
