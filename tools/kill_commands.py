"""Kill commands while they write, fill their disk, and look at what they leave.

``./dev python tools/kill_commands.py`` ends each command 15 times by SIGTERM and 15 times by
SIGKILL, at random moments; ``--points`` kills it before each of its changes of a folder instead,
and ``--disk`` lets every file, or the disk, be full at some size. Afterwards there has to be the
old content or the new one, and once the command is called again the same as without all that, and
nothing else. ``./dev python tools/kill_commands.py save convert --points`` takes some seconds.

Commands run in forks of this process, which has imported everything.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = (".facke-", ".unfinished")
PAGE = 4096
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
Seen = dict[str, str]
"""Path of a file -> its SHA-256."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command that writes to the folder ``{}``."""

    words: str
    before: str = ""
    """Another one, whose results this one replaces."""
    resume: str = ""
    """An option of the second call, once the first has begun; ``{}`` is a file that tells."""
    begun: str = ""
    varies: tuple[str, ...] = ()
    """Files that tell of times."""
    code: Callable[[Path, int], None] | None = field(default=None)
    """Python instead of words; its number is 2 where there is something before, which is 1."""


def save_weights(folder: Path, number: int) -> None:
    """Save tiny weights, all numbers of which are ``number``."""
    import torch

    from facke_core import save
    from facke_core.weights.layout import WeightsConfig
    from facke_gan.simswap import SimSwapConfig, build

    shape: dict[str, Any] = {"image_size": 32, "identity_dim": 128, "num_id_blocks": 1}
    method: Any = build(SimSwapConfig(**shape, channels=(4, 6, 8)))
    with torch.no_grad():
        for parameter in method.generator.parameters():
            parameter.fill_(0.1 * number)
    config = WeightsConfig(
        method="simswap",
        generator={**shape, "channels": [4, 6, 8]},
        alignment={"template": "ffhq", "size": 32},
        license="MIT",
    )
    save(method, folder / "w", config, overwrite=True, golden=False)


CPU = "--device cpu --quiet"
CONVERT = "weights convert latest_net_G.pth -o {}/w --license"
EXPORT = "weights export ./tiny -o {}/g.onnx"
MEASURE = "--metrics psnr --out {}/e --json {}/e.json --html {}/e.html"
JOBS = {
    "swap": Job(words=f"swap 0.png 1.png -o {{}}/r.png --force {CPU}"),
    "swap-force": Job(
        words=f"swap 0.png 1.png -o {{}}/r.jpg --force {CPU}",
        before=f"swap 1.png 0.png -o {{}}/r.jpg {CPU}",
    ),
    "pairs": Job(
        words=f"swap --pairs pairs.csv -o {{}}/p {CPU}", resume="--resume", begun="p/run.json"
    ),
    "clip": Job(
        words=f"swap --method warp 0.png clip.mkv -o {{}}/c.mkv {CPU}",
        resume="--resume",
    ),
    "prepare": Job(words="prepare photos {}/d --size 64 --workers 1 --quiet"),
    "evaluate": Job(
        words=f"evaluate simswap --pairs pairs.csv {MEASURE} {CPU}",
        resume="--resume",
        varies=("e.json", "e.html"),
    ),
    "convert": Job(words=f"{CONVERT} MIT --force"),
    "convert-force": Job(words=f"{CONVERT} MIT --force", before=f"{CONVERT} CC0-1.0"),
    "export": Job(words=f"{EXPORT} --force"),
    "save": Job(words="", code=save_weights, before="-"),
    "matrix": Job(
        words=f"matrix --sources 0.png --targets 1.png 2.png -o {{}}/m.png --force {CPU}"
    ),
}
MAIN = ("swap", "pairs", "prepare", "evaluate", "convert-force", "export")


# -- the commands ----------------------------------------------------------------------------------


def preload() -> None:
    """Import what all commands need."""
    import torch

    import facke_gan.simswap  # noqa: F401
    from facke_core import default_registry

    torch.set_num_threads(1)
    default_registry()


def inputs(folder: Path) -> None:
    """Write the pictures, the pairs and the checkpoint that the commands read."""
    import torch
    from PIL import Image

    from facke_cli.samples import sample_or_path

    sys.path[:0] = [str(ROOT / "tests" / "unit"), str(ROOT / "tests"), str(ROOT / "tools")]
    from make_clip import make
    from test_convert_safety import tiny

    pictures = [Image.open(sample_or_path(f"sample:{who}")) for who in ("collins", "hopper")]
    for number in range(4):
        picture = pictures[number % 2].convert("RGB").resize((300 - 9 * number,) * 2)
        picture.save(folder / f"{number}.png")
        (folder / "photos" / "AB"[number % 2]).mkdir(parents=True, exist_ok=True)
        picture.save(folder / "photos" / "AB"[number % 2] / f"{number}.png")
    make(folder / "clip.mkv", frames=2, size=(240, 200), seconds=11)
    rows = [f"{a}.png,{b}.png" for a in range(2) for b in range(3) if a != b]
    (folder / "pairs.csv").write_text("\n".join(["source,target", *rows]) + "\n")
    torch.save(tiny(), folder / "latest_net_G.pth")
    save_weights(folder, 1)
    (folder / "w").rename(folder / "tiny")


class Runner:
    """Runs a job in forks."""

    def __init__(self, job: Job, log: Path) -> None:
        self.job, self.log = job, log

    def start(self, folder: Path, *, old: bool = False, again: bool = False, **limits: Any) -> int:
        """Start the job, or the one before it, and return the process's number."""
        job = self.job
        words = (job.before if old else job.words).replace("{}", str(folder))
        if again and job.resume and (not job.begun or (folder / job.begun).exists()):
            words += f" {job.resume}"
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = 99
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if "hook" in limits:
                sys.addaudithook(limits["hook"])
            if "bytes" in limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits["bytes"], -1))
            from facke_cli import main as cli

            if job.code:
                write, number = job.code, 1 if old else 2
                cli._dispatch = lambda words: write(folder, number)
            sys.argv = ["facke", *words.split()]
            cli.run()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        finally:
            os._exit(code)

    def end(self, child: int) -> int:
        """Wait for the end, and return the exit code, or the negative number of a signal."""
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def said(self) -> str:
        return self.log.read_text(errors="replace")


def seen(folder: Path) -> Seen:
    """What readers of ``folder`` find."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not (name := path.relative_to(folder).as_posix()).startswith(HIDDEN)
        and not any(part.startswith(HIDDEN) for part in path.relative_to(folder).parts)
    }


def hidden(folder: Path) -> list[str]:
    """What readers do not find."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(HIDDEN)]


def changes(folder: Path, tell: Callable[[str], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that hears of each change of ``folder`` before it is made."""
    place = str(folder)

    def under(path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and place in os.fsdecode(path)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & WRITES and under(path):
                tell(event)
        elif event in ("os.rename", "os.link"):
            if under(arguments[0]) or under(arguments[1]):
                tell(event)
        elif event in ("os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"):
            if under(arguments[0]):
                tell(event)
        elif event == "ctypes.dlsym" and arguments[1] == "renameat2":
            tell("exchange")

    return hook


# -- what is checked -------------------------------------------------------------------------------


class Check:
    """One job, its right results, and what was wrong."""

    def __init__(self, name: str, work: Path) -> None:
        self.name, self.job, self.work = name, JOBS[name], work
        self.runner = Runner(self.job, work / f"{name}.log")
        self.faults: list[str] = []
        self.codes: Counter[int] = Counter()
        self.tries = 0
        whole = self.fresh()
        self.old = seen(whole)
        begin = time.perf_counter()
        code = self.runner.end(self.runner.start(whole))
        self.seconds = time.perf_counter() - begin
        assert code == 0, self.runner.said()
        self.new = seen(whole)
        self.sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
        shutil.rmtree(whole)

    def fresh(self, place: Path | None = None) -> Path:
        """A folder with what is there before."""
        self.tries += 1
        folder = place or self.work / f"{self.name}-{self.tries}"
        folder.mkdir(exist_ok=True)
        if self.job.before:
            assert self.runner.end(self.runner.start(folder, old=True)) == 0, self.runner.said()
        return folder

    def fault(self, what: str) -> None:
        self.faults.append(f"{self.name}: {what}")
        print(f"FAULT {self.faults[-1]}", flush=True)

    def old_or_new(self, folder: Path, when: str) -> None:
        there = seen(folder)
        if self.job.before:
            if there not in (self.old, self.new):
                self.fault(f"{when}: neither the old nor the new: {sorted(there)}")
            return
        varies = self.job.varies
        wrong = [n for n, d in there.items() if self.new.get(n) != d and n not in varies]
        if wrong:
            self.fault(f"{when}: under a final name, but not what belongs there: {wrong}")

    def again(self, folder: Path, when: str) -> None:
        """The same command once more: everything as it should be, and nothing else."""
        code = self.runner.end(self.runner.start(folder, again=True))
        said = self.runner.said()
        there, varies = seen(folder), self.job.varies
        differ = [n for n in {*there, *self.new} - {*varies} if there.get(n) != self.new.get(n)]
        if code:
            self.fault(f"{when}: then it fails ({code}): {said[-300:]}")
        elif differ:
            self.fault(f"{when}: then it differs: {differ}")
        elif left := hidden(folder):
            self.fault(f"{when}: this stays: {left}")
        shutil.rmtree(folder, ignore_errors=True)

    def killed(self, number: signal.Signals, rng: random.Random) -> None:
        folder = self.fresh()
        delay = rng.uniform(0, self.seconds)
        child = self.runner.start(folder)
        time.sleep(delay)
        os.kill(child, number)
        code = self.runner.end(child)
        self.codes[code] += 1
        when, said = f"{number.name} after {delay:.2f} s", self.runner.said()
        if number != signal.SIGKILL:
            if code not in (0, 128 + number, -number if delay < 0.2 else 0):
                self.fault(f"{when}: exit code {code}: {said[-300:]}")
            if "Traceback" in said or "fault of facke" in said:
                self.fault(f"{when}: it said {said[-600:]}")
            if left := [name for name in hidden(folder) if name != ".unfinished"]:
                self.fault(f"{when}: left {left}")
        self.old_or_new(folder, when)
        self.again(folder, when)

    def points(self) -> None:
        """Kill it before each of its changes."""
        for limit in range(1, 1000):
            folder, count = self.fresh(), 0

            def tell(event: str, limit: int = limit) -> None:
                nonlocal count
                count += 1
                if count == limit:
                    os.kill(os.getpid(), signal.SIGKILL)

            code = self.runner.end(self.runner.start(folder, hook=changes(folder, tell)))
            self.codes[code] += 1
            if code != -signal.SIGKILL:
                break
            self.old_or_new(folder, f"killed at change {limit}")
            self.again(folder, f"killed at change {limit}")
        shutil.rmtree(folder, ignore_errors=True)
        assert limit > 1, self.runner.said()

    def full(self) -> None:
        """Let its files end at some size, and then its disk."""
        largest, pages = max(self.sizes), sum(-(-size // PAGE) for size in self.sizes)
        for share in (0.0, 0.1, 0.5, 0.9, 0.99, 1 - 1 / largest):
            folder = self.fresh()
            self.refused(folder, f"files of {share:.2f}", bytes=int(largest * share))
            self.again(folder, f"files of {share:.2f}")
        disk = self.work / "disk"
        disk.mkdir(exist_ok=True)
        for share in (0.2, 0.5, 0.8, 0.95):
            size = PAGE * (pages * bool(self.job.before) + max(int(pages * share), 1))
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                print("(no disk could be mounted)")
                return
            try:
                self.refused(self.fresh(disk), f"a disk of {share:.2f}")
            finally:
                subprocess.run(["umount", str(disk)], check=True)

    def refused(self, folder: Path, when: str, **limits: Any) -> None:
        code = self.runner.end(self.runner.start(folder, **limits))
        self.codes[code] += 1
        said = self.runner.said()
        if code not in (0, 1, 2, 3, 4) or "Traceback" in said or "fault of facke" in said:
            self.fault(f"{when}: exit code {code}: {said[-300:]}")
        if code == 0 and {n for n in self.new if n not in self.job.varies} - seen(folder).keys():
            self.fault(f"{when}: it says that all went well")
        self.old_or_new(folder, when)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the number of faults is the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("jobs", nargs="*", help=f"some of: {', '.join(JOBS)}")
    parser.add_argument("--points", action="store_true", help="kill before each change")
    parser.add_argument("--disk", action="store_true", help="full disks and limits of size")
    parser.add_argument("--kills", type=int, default=15, help="by each signal")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="kills-"))
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("FACKE_CACHE", str(work / "cache"))
    faults = []
    try:
        preload()
        inputs(work)
        os.chdir(work)
        for name in options.jobs or MAIN:
            begin, check = time.perf_counter(), Check(name, work)
            if options.points:
                check.points()
            elif options.disk:
                check.full()
            else:
                rng = random.Random(f"{options.seed} {name}")
                for number in (signal.SIGTERM, signal.SIGKILL):
                    for _ in range(options.kills):
                        check.killed(number, rng)
            codes = ", ".join(f"{code} x {n}" for code, n in sorted(check.codes.items()))
            took = time.perf_counter() - begin
            print(f"{name}: {len(check.faults)} faults; ended by {codes}; {took:.0f} s", flush=True)
            faults += check.faults
    finally:
        os.chdir("/")
        shutil.rmtree(work, ignore_errors=True)
    return min(len(faults), 99)


if __name__ == "__main__":
    sys.exit(main())
