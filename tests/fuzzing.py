"""Damaged and hostile files: whatever is in them, facke says so by a FackeError, soon and cheaply.

``./dev python tests/fuzzing.py --cases 20000`` tries so many in child processes, and lists every
other exception and whatever took more than 5 s or 500 MB. ``--kinds config,csv`` tries some of
them, ``--first 5000`` begins with a later case. A case follows from its kind and its number.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import re
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SECONDS, MEGABYTES = 5.0, 500
"""Bounds of a case: of processor time, which other programs do not lengthen, and of memory. One
that waits for something is ended after six times as long."""


class Kind(NamedTuple):
    """A kind of file: honest contents, and what reads one."""

    seeds: list[bytes]
    read: Callable[[Path], object]
    suffix: str = ""


# -- damage ----------------------------------------------------------------------------------------

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 7, 10**9, 10**18, -(10**18), 2**63, 10**400, 0.5, -0.5, 1e308,
    5e-324, "", "x", "a" * 5000, "\0", "\ud800", "../../x", "/dev/zero", "1", "NaN", [], {}, [[]],
    [1, 2, 3], [1] * 3000, {"a": {"b": {}}}, {"name": "x"}, "4096", [4096] * 4, 4096, 99, "hf:a/b",
]  # fmt: skip
RAW = [b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 100_000, b'{"a":' * 3000]
BITS = [b"\0", b"\xff", b"\n", b'"', b",", b"{", b"]", b"<", b"&", b"\xef\xbb\xbf", b"9999999999"]


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    pairs = value.items() if isinstance(value, dict) else ()
    for key, item in enumerate(value) if isinstance(value, list) else pairs:
        yield from nodes(item, (*path, key))


def at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


def damaged_json(data: bytes, rng: random.Random) -> bytes:
    """Change the values or the keys of a JSON text, not its bytes."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        places = [path for path in nodes(value) if path]
        if not places:
            break
        *path, key = rng.choice(places)
        inside = at(value, path)
        how = rng.randrange(5)
        if how < 3:
            inside[key] = copy.deepcopy(rng.choice(ODD))
        elif how == 3:
            inside.pop(key)
        else:
            other = rng.choice([place for place in nodes(value) if place])
            moved = copy.deepcopy(at(value, other))
            if isinstance(inside, dict):
                inside[rng.choice(["x", "", "a" * 3000, str(other[-1])])] = moved
            else:
                inside.append(moved)
    text = json.dumps(value).encode()
    if rng.random() < 0.15:
        numbers = list(re.finditer(rb"(?<=[ \[])-?\d[\d.e+-]*(?=[,\]}])", text))
        if numbers:
            old = rng.choice(numbers)
            text = text[: old.start()] + rng.choice(RAW) + text[old.end() :]
    return text


def damaged_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat and replace bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 40))):
        at = rng.randrange(len(out) + 1)
        until = at + rng.choice((1, 2, 4, 8, 64, 1000))
        how = rng.randrange(7)
        if how == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at:until] = b""
        elif how == 2:
            out[at:at] = rng.choice((*BITS, *RAW))
        elif how == 3:
            out[at:at] = out[at:until] * rng.choice((1, 1, 2, 50))
        elif how == 4:
            out[at:until] = rng.randbytes(min(until - at, 64))
        elif how == 5 and rng.random() < 0.3:
            del out[at:]
        else:
            number = rng.choice((0, 1, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1))
            form = rng.choice(("<I", ">I", "<Q", ">H"))
            width = struct.calcsize(form)
            out[at : at + width] = struct.pack(form, number & (2 ** (8 * width) - 1))
        if len(out) > 2_000_000:
            break
    return bytes(out)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A damaged copy. What begins like safetensors often gets a damaged header, of right length."""
    if data[:1] in b"{[" and rng.random() < 0.75:
        lines = data.split(b"\n") if data.count(b"\n{") else [data]
        at = rng.randrange(len(lines))
        with contextlib.suppress(ValueError, RecursionError):  # it was damaged before
            lines[at] = damaged_json(lines[at], rng)
            return b"\n".join(lines)
    if data[8:10] == b'{"' and rng.random() < 0.7:
        length = int.from_bytes(data[:8], "little")
        with contextlib.suppress(ValueError, RecursionError):
            header = damaged_json(data[8 : 8 + length], rng)
            return struct.pack("<Q", len(header)) + header + data[8 + length :]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.7:
        return _png(data, rng)
    return damaged_bytes(data, rng)


def _png(data: bytes, rng: random.Random) -> bytes:
    """Damage one chunk of a PNG and mend its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    chosen = rng.randrange(len(chunks))
    kind, content = chunks[chosen]
    chunks[chosen] = (kind, damaged_bytes(content, rng) if content else b"\0")
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks
    )


def case(name: str, kind: Kind, number: int) -> bytes:
    rng = random.Random(f"{name} {number}")
    content = damaged(rng.choice(kind.seeds), rng)
    return damaged(content, rng) if rng.random() < 0.1 and content else content


# -- in this process -------------------------------------------------------------------------------


def tried(kind: Kind, content: bytes, folder: Path) -> str:
    """Read a case; empty where that went well or ended in a FackeError, else what happened."""
    from facke_core.errors import FackeError, OutOfMemoryError

    file = folder / f"case{kind.suffix}"
    file.write_bytes(content)
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        try:
            kind.read(file)
        except OutOfMemoryError as error:
            return f"OutOfMemoryError: {error}"
        except FackeError as error:
            text = str(error)
            if len(text) > 20_000:
                return f"{type(error).__name__} of {len(text)} characters"
            text.encode()  # can be printed
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "facke_" in f.filename]
            return f"{type(error).__name__}: {str(error)[:200]} at {', '.join(ours[-3:])}"
    return ""


# -- in children -----------------------------------------------------------------------------------


def watched(kinds: Mapping[str, Kind], first: int, count: int) -> int:
    """Try cases in children; print what went wrong, and return how often it did."""
    names = list(kinds)
    cases = [(names[i % len(names)], first + i // len(names)) for i in range(count)]
    wrong, done, worst = 0, 0, (0.0, 0, "")
    while done < len(cases):
        some = cases[done : done + 200]
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            _child(kinds, some, write)
        os.close(write)
        answers = list(_answers(read))
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        for (name, number), line in zip(some, answers, strict=False):
            seconds, megabytes, what = json.loads(line)
            worst = max(worst, (seconds, megabytes, f"{name} {number}"))
            if what or seconds > SECONDS or megabytes > MEGABYTES:
                wrong += 1
                say(f"{name} {number}: {seconds:.1f} s, {megabytes} MB: {what}")
        done += len(answers)
        if len(answers) < len(some):  # it died, or was killed, with this one in hand
            name, number = some[len(answers)]
            say(f"{name} {number}: beyond all time, or the end of the process ({status})")
            wrong, done = wrong + 1, done + 1
    say(f"{len(cases)} cases, {wrong} wrong; the slowest: {worst}")
    return wrong


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _child(kinds: Mapping[str, Kind], cases: list[tuple[str, int]], write: int) -> None:
    try:
        _try_all(kinds, cases, write)
    except BaseException:
        traceback.print_exc()
    os._exit(0)  # what the parent has made stays


def _try_all(kinds: Mapping[str, Kind], cases: list[tuple[str, int]], write: int) -> None:
    with os.fdopen(write, "w") as answers, tempfile.TemporaryDirectory() as folder:
        for name, number in cases:
            content = case(name, kinds[name], number)
            Path("/proc/self/clear_refs").write_text("5")
            before, start = _peak(), time.process_time()
            what = tried(kinds[name], content, Path(folder))
            print(json.dumps([time.process_time() - start, _peak() - before, what]), file=answers)
            answers.flush()


def _answers(read: int) -> Iterator[str]:
    waiting = b""
    while select.select([read], [], [], 6 * SECONDS)[0] and (data := os.read(read, 65536)):
        *lines, waiting = (waiting + data).split(b"\n")
        yield from (line.decode() for line in lines)


def _peak() -> int:
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) // 1024 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kinds", default="")
    options = parser.parse_args()
    from fuzzed_kinds import kinds

    with tempfile.TemporaryDirectory() as folder:
        made = kinds(Path(folder))
        chosen = options.kinds.split(",") if options.kinds else list(made)
        wrong = watched({name: made[name] for name in chosen}, options.first, options.cases)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
