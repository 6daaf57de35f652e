"""Whole datasets: ``facke swap --pairs``, and the engine ray for it and for ``facke evaluate``."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from facke_core.errors import UnavailableError, UnknownNameError, UsageError
from facke_core.jobs.engines import RayEngine
from facke_core.jobs.swapping import SwapWork
from facke_core.weights.sources import locate


@pytest.fixture
def pairs(samples: Path) -> Path:
    """collins on hopper, the other way round, and one pair without a face."""
    Image.new("RGB", (200, 200), "gray").save(samples / "wall.png")
    file = samples / "pairs.csv"
    rows = ["collins.png,hopper.jpg", "hopper.jpg,collins.png", "wall.png,hopper.jpg"]
    file.write_text("\n".join(["source,target", *rows, ""]))
    return file


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, which both engines below find running."""
    ray = pytest.importorskip("ray", reason="needs Ray (extra: ray)")
    ray.init(address="local", include_dashboard=False, logging_level="ERROR", num_cpus=2)
    yield
    ray.shutdown()


def swaps(folder: Path) -> list[dict[str, str]]:
    with (folder / "swaps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_are_those_of_single_swaps_and_bad_pairs_are_told(
    facke: Callable[..., Any], pairs: Path
) -> None:
    command = ["swap", "--pairs", pairs, "--method", "cvae-gan", "--seed", 3]
    done = facke(*command, "-o", "out")
    assert done.code == 0, done.err
    assert "2 pictures by cvae-gan, 1 pairs skipped" in done.out
    assert "pair 2 skipped: No face was found in" in done.err
    found = swaps(Path("out"))
    assert [row["output"] for row in found] == ["000000.png", "000001.png", ""]
    seed = found[0]["seed"]
    single = ["swap", "collins.png", "hopper.jpg", "--method", "cvae-gan", "-o", "one.png"]
    assert facke(*single, "--seed", seed).code == 0
    assert Path("one.png").read_bytes() == Path("out/000000.png").read_bytes()
    assert "synthetic" in facke("inspect", "out/000001.png").out

    again = facke(*command, "-o", "out")
    assert (again.code, "--resume" in again.err) == (2, True)
    assert facke(*command, "-o", "out", "--resume", "--json").code == 0
    other = facke(*command[:-1], 4, "-o", "out", "--resume")
    assert other.code == 2
    assert "seed is different" in other.err
    Path("full").mkdir()
    Path("full/mine.txt").touch()
    assert facke(*command, "-o", "full").code == 2
    assert [p.name for p in Path("full").iterdir()] == ["mine.txt"]


def test_what_is_gone_damaged_repaired_or_new_is_made_on_resume_and_nothing_else(
    facke: Callable[..., Any], pairs: Path
) -> None:
    good = Path("hopper.jpg").read_bytes()
    Path("cut.jpg").write_bytes(good[: len(good) // 2])
    rows = ["collins.png,hopper.jpg", "hopper.jpg,collins.png", "collins.png,cut.jpg"]
    header = "source,target"
    pairs.write_text("\n".join([header, *rows, "collins.png,gone.jpg"]))
    command = ["swap", "--pairs", pairs, "--method", "cvae-gan", "--seed", 3, "-o", "out"]
    done = facke(*command, "--json")
    assert done.code == 0, done.err
    reasons = {each["pair"]: each["reason"] for each in json.loads(done.out)["skipped_pairs"]}
    assert "cut.jpg is damaged or incomplete" in reasons[2]
    assert "gone.jpg cannot be read" in reasons[3]
    whole = {path.name: path.read_bytes() for path in Path("out").glob("*.png")}
    assert sorted(whole) == ["000000.png", "000001.png"]

    def resumed(*deleted: str) -> set[str]:
        """Resume, and tell which pictures were written."""
        for name in deleted:
            Path("out", name).unlink()
        before = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
        done = facke(*command, "--resume")
        assert done.code == 0, done.err
        after = {path.name: path.stat().st_mtime_ns for path in Path("out").glob("*.png")}
        return {name for name in after if after[name] != before.get(name)}

    assert resumed() == set()
    assert resumed("000001.png") == {"000001.png"}
    Path("out/000000.png").write_bytes(whole["000000.png"][:-100])
    assert resumed() == {"000000.png"}
    Path("cut.jpg").write_bytes(good)
    Path("gone.jpg").write_bytes(good)
    assert resumed() == {"000002.png", "000003.png"}
    pairs.write_text("\n".join([header, rows[1], *rows[1:]]))
    assert resumed() == {"000000.png"}
    assert Path("out/000000.png").read_bytes() == Path("out/000001.png").read_bytes()
    assert Path("out/000001.png").read_bytes() == whole["000001.png"]
    assert [row["skipped"] for row in swaps(Path("out"))] == ["", "", ""]
    pairs.write_text(f"{header}\nhopper.jpg,hopper.jpg\n")
    other = facke(*command, "--resume")
    assert (other.code, "none of which is in" in other.err) == (2, True)


def test_pairs_of_which_none_can_be_swapped_are_an_error(
    facke: Callable[..., Any], pairs: Path
) -> None:
    pairs.write_text("source,target\nwall.png,hopper.jpg\n")
    done = facke("swap", "--pairs", pairs, "--method", "cvae-gan", "-o", "out")
    assert done.code == 2
    assert "No pair of" in done.err
    assert "No face was found" in swaps(Path("out"))[0]["skipped"]


def test_options_that_do_not_go_together_are_refused(
    facke: Callable[..., Any], pairs: Path
) -> None:
    for words in (
        ["swap", "-o", "out"],
        ["swap", "collins.png", "hopper.jpg", "--resume", "-o", "a.png"],
        ["swap", "collins.png", "--pairs", pairs, "-o", "out"],
        ["swap", "--pairs", "none.csv", "-o", "out"],
        ["swap", "--pairs", pairs, "--ray-actors", 2, "-o", "out"],
    ):
        done = facke(*words)
        assert done.code == 2, done.err
        assert not Path("out").exists()


def test_ray_makes_the_same_pictures(facke: Callable[..., Any], pairs: Path, cluster: None) -> None:
    command = ["swap", "--pairs", pairs, "--seed", 1]
    before = torch.get_num_threads()
    torch.set_num_threads(RayEngine().threads)  # of an actor
    try:
        assert facke(*command, "-o", "here").code == 0
    finally:
        torch.set_num_threads(before)
    done = facke(*command, "-o", "there", "--engine", "ray", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["output"], told["pairs"], told["skipped"]) == ("there", 3, 1)
    assert told["skipped_pairs"][0]["reason"].startswith("No face was found in")
    for name in ("000000.png", "000001.png", "swaps.csv"):
        assert Path("here", name).read_bytes() == Path("there", name).read_bytes()


def test_ray_computes_the_same_rows_and_goes_on_by_shard(
    facke: Callable[..., Any], tmp_path: Path, cluster: None
) -> None:
    from facke_core.data.crops import CropSet

    rng = torch.Generator().manual_seed(0)
    CropSet(
        images=torch.randint(0, 256, (6, 3, 64, 64), generator=rng, dtype=torch.uint8),
        embeddings=torch.eye(6)[:, None].expand(6, 2, 6).contiguous(),
        people=torch.arange(6) // 2,
        weights=torch.ones(6),
        info={"alignment": {"template": "simswap_frontal", "size": 64}, "people": list("abc")},
    ).save(tmp_path / "set")
    bundled = locate("simswap").folder
    assert bundled is not None
    shutil.copytree(bundled, "own")
    # relative to a folder in which no actor works
    command = ["evaluate", "./own", "--data", "set", "--limit", 70]
    command += ["--metrics", "recon-l1", "--out", "rows"]
    assert facke(*command, "--json", "here.json").code == 0
    (first,) = Path("rows").rglob("rows-00000.jsonl")
    first.unlink()
    done = facke(*command, "--resume", "--engine", "ray", "--workers", 1, "--json", "-")
    assert done.code == 0, done.err
    Path("ray.json").write_text(done.out)
    same = facke("evaluate", "diff", "here.json", "ray.json", "--tolerance", 0)
    assert (same.code, same.out.strip()) == (0, "The same to 0: 70 pairs compared.")
    (report,) = json.loads(done.out)["reports"]
    # 21 of the 64 were drawn again as one of the last six, whose rows are there
    assert report["run"]["pairs_computed"] == 43
    assert report["run"]["seconds"]["generate"] > 0


NOWHERE = SwapWork(weights="nothing", pairs="none.csv", folder="out")


def test_errors_of_actors_are_those_of_the_work(cluster: None) -> None:
    with pytest.raises(UnknownNameError, match="Unknown method 'nothing'"):
        list(RayEngine(threads=1, actors=1)(NOWHERE, [range(2), range(2, 3)]))
    with pytest.raises(UsageError, match="more than Ray has: 2 CPUs"):
        list(RayEngine(threads=5)(NOWHERE, [range(2)]))
    assert list(RayEngine()(NOWHERE, [])) == []


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    pytest.importorskip("ray", reason="needs Ray (extra: ray)")
    import ray

    if ray.is_initialized():
        ray.shutdown()
    with pytest.raises(UnavailableError, match=r"No Ray cluster answers at 127.0.0.1:1 "):
        list(RayEngine(address="127.0.0.1:1")(NOWHERE, [range(2)]))
