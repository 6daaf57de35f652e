"""Make a small clip to try things with: a portrait that moves before a wall, and a tone.

./dev python tools/make_clip.py clip.mp4
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from facke_cli.samples import sample_or_path

RATE, SOUND = 25, 48_000
SIZES = {"small": (240, 200), "480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}


def frame(number: int, size: tuple[int, int], faces: int = 1) -> np.ndarray[Any, Any]:
    """One picture (H, W, 3): portraits side by side that go to and fro before a wall."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    wall = np.stack([90 + x % 60, 100 + y % 40, 0 * x + 120], -1).astype(np.uint8)
    room = width // faces
    with Image.open(sample_or_path("sample:hopper")) as portrait:
        side = min(height, int(room * 0.8))
        face = np.asarray(portrait.convert("RGB").resize((side * 4 // 5, side)))
    for place in range(faces):
        free = room - face.shape[1]
        left = place * room + int(free / 2 * (1 + np.sin(number / 12 + place)))
        wall[height - side :, left : left + face.shape[1]] = face
    return wall


def make(
    path: Path, *, frames: int, size: tuple[int, int], faces: int = 1, seconds: float = 1 / RATE
) -> None:
    """Write the clip; each frame is shown for so many seconds."""
    with av.open(str(path), "w") as out:
        video: Any = out.add_stream("libx264", rate=RATE, options={"crf": "18", "bf": "0"})
        video.width, video.height = size
        unit = Fraction(1, 1000)
        video.time_base = video.codec_context.time_base = unit
        audio: Any = out.add_stream("aac", rate=SOUND)
        out.metadata["title"] = "A portrait that moves"
        for number in range(frames):
            shown = av.VideoFrame.from_ndarray(frame(number % 75, size, faces), format="rgb24")
            shown.pts, shown.time_base = round(1000 * seconds * number), unit
            out.mux(video.encode(shown))
        out.mux(video.encode(None))
        for start in range(0, int(SOUND * frames * seconds), 1024):
            wave = 0.1 * np.sin(2 * np.pi * 220 * (start + np.arange(1024)) / SOUND)
            sound = av.AudioFrame.from_ndarray(np.stack([wave, wave]).astype(np.float32), "fltp")
            sound.sample_rate, sound.pts, sound.time_base = SOUND, start, Fraction(1, SOUND)
            out.mux(audio.encode(sound))
        out.mux(audio.encode(None))


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--faces", type=int, default=1)
    options = parser.parse_args()
    make(options.out, frames=options.frames, size=SIZES[options.size], faces=options.faces)


if __name__ == "__main__":
    main()
