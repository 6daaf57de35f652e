"""Publishing and fetching weights with the real client of the Hub, against one on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from facke_core.weights.layout import CONFIG, GOLDEN, LOG, MODEL
from loopback_hub import READER, WRITER, LoopbackHub, Repo, Request

NAME = "org/tiny"
LARGE = "discriminator.safetensors"
SCRIPT = """
import contextlib, io, json, os, sys
from facke_cli.main import main
runs = []
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    if words[0].startswith("HF_TOKEN="):
        os.environ["HF_TOKEN"] = words.pop(0).removeprefix("HF_TOKEN=")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    runs.append((code, out.getvalue(), err.getvalue()))
json.dump(runs, sys.stdout)
"""


class Run(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Client = Callable[..., list[Run]]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Run ``facke`` commands one after the other in a process of their own, with a cache of its
    own: ``HF_ENDPOINT`` and ``HF_HOME`` count when ``huggingface_hub`` is imported. A token before
    a command holds from there on."""

    def run(hub: LoopbackHub | None, *commands: str, **more: str) -> list[Run]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps([command.split() for command in commands]),
            env=_environment(hub, tmp_path / "home") | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return [Run(*one) for one in json.loads(done.stdout)]

    return run


def _environment(hub: LoopbackHub | None, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {
        "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "FACKE_CACHE": str(home / "facke"),
        "HF_TOKEN": WRITER,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny generator, and a discriminator of 11 MB."""
    return tiny(tmp_path_factory.mktemp("weights") / "tiny", seed=0)


def tiny(path: Path, *, seed: int) -> Path:
    import torch

    from facke_core import Method, save
    from facke_core.config import from_dict
    from facke_core.publish._curves import write_logs
    from facke_core.sampling import SinglePass
    from facke_core.weights.layout import WeightsConfig
    from facke_gan.simswap import SimSwapConfig, SimSwapGenerator

    settings = {"image_size": 32, "identity_dim": 128, "channels": [4, 8, 8], "num_id_blocks": 1}
    torch.manual_seed(seed)
    generator = SimSwapGenerator(from_dict(SimSwapConfig, settings))
    logs = write_logs(path, {LOG: b'{"step": 1, "generator.identity": 0.5}\n'})
    config = WeightsConfig(
        method="simswap",
        generator=settings,
        identity_encoder={"name": "dlib-resnet29"},
        alignment={"template": "simswap_frontal", "size": 32},
        license="CC-BY-NC-4.0",
        training={"logs": logs},
    )
    large = torch.nn.Linear(1024, 2700, bias=False)
    save(Method(generator, SinglePass()), path, config, extra={"discriminator": large})
    return path


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[LoopbackHub]:
    """With the weights in a private and in a gated repository."""
    with LoopbackHub() as hub:
        files = uploaded(hub, folder)
        hub.repos = {NAME: Repo(private=True), "org/gated": Repo(gated=True)}
        for repo in hub.repos.values():
            repo.commit("main", files)
        yield hub


def uploaded(hub: LoopbackHub, folder: Path) -> dict[str, bytes]:
    """The files of a commit with the content of ``folder``."""
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    for content in files.values():
        hub.objects[hashlib.sha256(content).hexdigest()] = content
    return files


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# -- publishing ----------------------------------------------------------------------------------


def test_what_is_pushed_is_pulled_into_another_cache_and_swaps(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    with LoopbackHub() as hub:
        push = f"weights push {folder} hf:org/new --private --message first --json"
        (pushed,) = client(hub, push)
        report = pushed.json
        commit = report["commit"]
        assert report["reference"] == f"hf:org/new@{commit}"
        assert hub.repos["org/new"].branches["main"] == commit
        assert hub.repos["org/new"].private
        assert len(hub.repos["org/new"].commits) == 2, "that of the repository, and one of ours"

        large = digest(folder / LARGE)
        puts = {one.path for one in hub.log if one.method == "PUT"}
        assert f"/lfs/upload/{large}" in puts
        assert large in hub.verified

        card = hub.repos["org/new"].commits[commit]["README.md"].decode()
        assert "--weights hf:org/new" in card
        assert "license: cc-by-nc-4.0" in card

        shutil.rmtree(tmp_path / "home", ignore_errors=True)
        swap = f"swap sample:collins sample:collins -o out.png --crop --weights hf:org/new@{commit}"
        pulled, verified, swapped, again = client(
            hub,
            "weights pull hf:org/new -o copy --json",
            f"weights verify hf:org/new@{commit} ./copy --json",
            swap,
            f"{swap} --force",
        )
        assert pulled.json["reference"] == f"hf:org/new@{commit}"
        assert digest(tmp_path / "copy" / LARGE) == large
        assert {path.name for path in (tmp_path / "copy").iterdir()} == {
            *(path.name for path in folder.iterdir())
        }
        assert [row["golden"]["max_error"] <= 0.002 for row in verified.json] == [True, True]
        assert swapped.code == 0, swapped.err
        assert (tmp_path / "out.png").is_file()
        assert "under CC-BY-NC-4.0 (non-commercial)" in swapped.err
        assert again == (0, again.out, ""), "a licence is told once"


def test_a_second_push_replaces_what_is_gone_and_an_equal_one_commits_nothing(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    config = json.loads((changed / CONFIG).read_text())
    del config["files"][LARGE]
    (changed / CONFIG).write_text(json.dumps(config))
    (changed / LARGE).unlink()
    (changed / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nMy own words.\n")
    with LoopbackHub() as hub:
        runs = client(
            hub,
            f"weights push {folder} hf:org/new --json",
            *["weights push changed hf:org/new --json"] * 2,
            "weights push changed hf:org/new --revision trial --json",
        )
        first, second, third, branch = (run.json["commit"] for run in runs)
        repo = hub.repos["org/new"]
        assert LARGE in repo.commits[first]
        assert LARGE not in repo.commits[second]
        assert repo.commits[second]["README.md"].endswith(b"My own words.\n")
        assert third == second
        assert branch == repo.branches["trial"]


def test_a_checkpoint_without_golden_tensors_gets_them_on_the_hub_alone(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "00000002"
    shutil.copytree(folder, checkpoint)
    config = json.loads((checkpoint / CONFIG).read_text())
    del config["files"][GOLDEN]
    (checkpoint / CONFIG).write_text(json.dumps(config))
    shutil.rmtree((checkpoint / GOLDEN).parent)
    files = {name: digest(checkpoint / name) for name in (MODEL, CONFIG)}
    state = {"step": 2, "recipe": {}, "files": files}
    (checkpoint / "state.json").write_text(json.dumps(state))
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with LoopbackHub() as hub:
        verified, pushed, again = client(
            hub,
            "weights verify ./run",
            "weights push run hf:org/new --json",
            "weights verify hf:org/new --json",
        )
        assert "none there" in verified.out
        assert GOLDEN in pushed.json["files"]
        assert any("were made" in note for note in pushed.json["notes"])
        published = hub.repos["org/new"].commits[pushed.json["commit"]]
        assert json.loads(published[CONFIG])["files"].keys() == {MODEL, LARGE, GOLDEN}
        assert again.json[0]["golden"]["max_error"] < 0.002
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["simswap", "cvae-gan", "ilvr"])
def test_bundled_weights_can_be_published_with_fackes_own_card(
    name: str, client: Client, tmp_path: Path
) -> None:
    from facke_core.weights.sources import locate

    bundled = locate(name).folder
    assert bundled is not None
    with LoopbackHub() as hub:
        (pushed,) = client(hub, f"weights push {bundled} hf:org/{name} --json")
        assert {"log.jsonl", "log.svg", "evaluation.json"} <= set(pushed.json["files"])
        assert any("README.md says hf:org/" in note for note in pushed.json["notes"])
        card = hub.repos[f"org/{name}"].commits[pushed.json["commit"]]["README.md"].decode()
    assert f"--weights hf:org/{name}" in card
    assert "](log.svg)" in card


def test_what_goes_up_is_listed_before_and_a_dry_run_sends_nothing(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "linked")
    (tmp_path / "secret.txt").write_text("a secret")
    (tmp_path / "linked" / "NOTICE").symlink_to(tmp_path / "secret.txt")
    with LoopbackHub() as hub:
        dry, linked = client(
            hub,
            f"HF_TOKEN= weights push {folder} hf:org/new --dry-run",
            f"HF_TOKEN={WRITER} weights push linked hf:org/new",
        )
        assert hub.log == []
        (real,) = client(hub, f"weights push {folder} hf:org/new")
        assert b"a secret" not in b"".join(hub.objects.values())
    assert dry.code == 0, dry.err
    assert "nothing was sent" in dry.out
    assert (linked.code, "holds links: NOTICE" in linked.err) == (2, True)
    assert real.code == 0, real.err
    for name in (CONFIG, MODEL, "README.md", LOG):
        assert f"bytes  {name}" in dry.err
        assert f"bytes  {name}" in real.err


def test_a_push_that_cannot_be_says_why_and_publishes_nothing(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    for name in ("stray", "pickle", "damaged", "local", "measured"):
        shutil.copytree(folder, tmp_path / name)
    local = json.loads((tmp_path / "local" / "config.json").read_text())
    local["identity_encoder"] = {"name": "arcface", "weights": str(tmp_path / "arcface")}
    (tmp_path / "local" / "config.json").write_text(json.dumps(local))
    (tmp_path / "stray" / "notes.txt").write_text("secret")
    (tmp_path / "pickle" / "latest_net_G.pth").write_bytes(b"\x80\x04.")
    (tmp_path / "measured" / "evaluation.json").write_text('{"psnr": {"mean": 31.2}}')
    content = bytearray((tmp_path / "damaged" / LARGE).read_bytes())
    content[-1] ^= 1
    (tmp_path / "damaged" / LARGE).write_bytes(content)
    with LoopbackHub() as hub:
        hub.repos["org/public"] = Repo()
        hub.repos["org/public"].commit("main", {})
        hub.objects[digest(folder / LARGE)] = (folder / LARGE).read_bytes()  # but not verified
        odd, bad = client(
            hub,
            f"HF_TOKEN=tök weights push {folder} hf:org/public",
            f"HF_TOKEN={WRITER} weights push {folder} hf:org/public",
        )
        stray, pickle, damaged, local, measured, public, pinned, reader, nobody, wrong = client(
            hub,
            "weights push stray hf:org/new",
            "weights push pickle hf:org/new",
            "weights push damaged hf:org/new",
            "weights push local hf:org/new",
            "weights push measured hf:org/new",
            f"weights push {folder} hf:org/public --private",
            f"weights push {folder} hf:org/new@main",
            f"HF_TOKEN={READER} weights push {folder} hf:org/new",
            f"HF_TOKEN= weights push {folder} hf:org/new",
            f"HF_TOKEN=hf_wrong weights push {folder} hf:org/new",
        )
        assert list(hub.repos) == ["org/public"]
        assert list(hub.repos["org/public"].commits.values()) == [{}]
    assert (odd.code, "The token (HF_TOKEN" in odd.err) == (2, True), odd.err
    assert bad.code == 2
    assert "refuses this (hf:org/public, status 400: LFS object was not" in bad.err
    assert (stray.code, "notes.txt" in stray.err) == (2, True)
    assert (pickle.code, "latest_net_G.pth may be pickles" in pickle.err) == (2, True)
    assert (damaged.code, LARGE in damaged.err) == (3, True)
    assert (local.code, "a place of this machine" in local.err) == (2, True)
    assert (measured.code, "is not what `facke evaluate" in measured.err) == (2, True)
    assert (public.code, "is public" in public.err) == (2, True)
    assert (pinned.code, "Give a branch" in pinned.err) == (2, True)
    assert (reader.code, "right to write to org" in reader.err) == (2, True)
    assert (nobody.code, "hf auth login" in nobody.err) == (2, True)
    assert (wrong.code, "is not valid" in wrong.err) == (2, True)


def test_a_hub_without_xet_is_told_from_one_that_is_down(client: Client, folder: Path) -> None:
    pytest.importorskip("hf_xet", reason="without it, large files go by LFS anyway")
    with LoopbackHub() as hub:
        (run,) = client(hub, f"weights push {folder} hf:org/new", HF_HUB_DISABLE_XET="0")
        assert (run.code, "Try HF_HUB_DISABLE_XET=1" in run.err) == (4, True), run.err
        assert len(hub.repos["org/new"].commits) == 1, "that of the repository alone"


# -- fetching ------------------------------------------------------------------------------------


def test_a_flipped_byte_on_the_server_is_found_and_does_not_stay_in_the_cache(
    client: Client, hub: LoopbackHub, folder: Path, tmp_path: Path
) -> None:
    swap = f"swap sample:collins sample:collins -o out.png --crop --weights hf:{NAME}"
    pull = f"weights pull hf:{NAME}"
    for name, command in ((LARGE, pull), (GOLDEN, pull), (MODEL, swap)):
        home = {"HF_HOME": str(tmp_path / name.partition("/")[0])}
        sound = digest(folder / name)
        content = hub.objects[sound]
        try:
            hub.objects[sound] = content[:-1] + bytes([content[-1] ^ 1])
            (run,) = client(hub, command, **home)
        finally:
            hub.objects[sound] = content
        assert run.code == 3, (name, run.err)
        assert name in run.err
    still_there, anew = client(hub, pull, pull, **home)
    assert (still_there.code, "removed from the cache" in still_there.err) == (3, True)
    assert anew.code == 0, anew.err


def test_a_log_that_was_changed_on_the_server_is_found(
    client: Client, hub: LoopbackHub, folder: Path
) -> None:
    (files,) = hub.repos[NAME].commits.values()
    sound = files[LOG]
    try:
        files[LOG] = sound.replace(b"0.5", b"0.4")
        (run,) = client(hub, f"weights pull hf:{NAME}")
    finally:
        files[LOG] = sound
    assert (run.code, "log.jsonl is not the file" in run.err) == (3, True), run.err


def test_a_download_that_is_cut_off_is_taken_up_where_it_broke(
    client: Client, hub: LoopbackHub, folder: Path
) -> None:
    large = digest(folder / LARGE)
    hub.log.clear()
    hub.cut[large] = 10_800_000  # the client keeps whole chunks of 10 MiB
    (run,) = client(hub, f"weights pull hf:{NAME} --json")
    assert run.json["files"][LARGE] == large
    gets = [one for one in hub.log if one.method == "GET" and one.path.endswith(large)]
    assert [one.status for one in gets] == [200, 206]
    assert gets[1].range == f"bytes={10 * 2**20}-"


def test_the_cache_serves_without_a_network(client: Client, hub: LoopbackHub, folder: Path) -> None:
    with LoopbackHub() as soon_gone:
        soon_gone.repos, soon_gone.objects = hub.repos, hub.objects
        (pulled,) = client(soon_gone, f"weights pull hf:{NAME} --json")
    swap = f"swap sample:collins sample:collins -o out.png --crop --weights hf:{NAME}"
    swapped, again, listed, other, pushed = client(
        None,
        swap,
        f"weights pull hf:{NAME} --json",
        "weights list --json",
        "weights pull hf:org/other",
        f"weights push {folder} hf:org/new",
        HF_HUB_OFFLINE="1",
    )
    assert swapped.code == 0, swapped.err
    assert again.json == pulled.json
    assert pulled.json["reference"] in [row["weights"] for row in listed.json]
    assert (other.code, "is not in the local cache" in other.err) == (4, True)
    assert (pushed.code, "HF_HUB_OFFLINE" in pushed.err) == (4, True)


def test_repositories_that_cannot_be_read_are_explained(client: Client, hub: LoopbackHub) -> None:
    missing, gated, revision, no_layout, method, private, gated_too = client(
        hub,
        f"HF_TOKEN={READER} weights pull hf:org/missing",
        "weights pull hf:org/gated",
        f"weights pull hf:{NAME}@v9",
        "weights pull hf:org/gated -o .",
        "weights pull simswap",
        f"HF_TOKEN= weights pull hf:{NAME}",
        "weights pull hf:org/gated",
    )
    assert (missing.code, "does not exist" in missing.err) == (2, True)
    assert (gated.code, "accept its conditions" in gated.err) == (2, True)
    assert f"{hub.url}/org/gated" in gated.err
    assert (revision.code, "no revision 'v9'" in revision.err) == (2, True)
    assert (no_layout.code, "exists already" in no_layout.err) == (2, True)
    assert (method.code, "installed already" in method.err) == (2, True)
    assert (private.code, "log in with `hf auth login` or set HF_TOKEN" in private.err) == (2, True)
    assert (gated_too.code, "log in with" in gated_too.err) == (2, True)
    for run in (missing, gated, revision, private, gated_too):
        assert len(run.err.splitlines()) == 1, run.err


def test_a_command_loads_and_names_one_commit_though_the_branch_moves_meanwhile(
    client: Client, folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe", reason="needs a face detector (extra: faces)")
    import facke_cli.samples

    for name in ("collins.png", "hopper.jpg"):
        shutil.copy(Path(facke_cli.samples.__file__).parent / name, tmp_path / name)
    (tmp_path / "pairs.csv").write_text("source,target\ncollins.png,hopper.jpg\n")
    repos = ["one", "many", "figure", "rows"]
    with LoopbackHub() as hub:
        first, second = uploaded(hub, folder), uploaded(hub, tiny(tmp_path / "other", seed=1))
        for name in repos:
            repo = hub.repos[f"org/{name}"] = Repo()
            repo.commit("next", second)
            repo.commit("main", first)

        def move(request: Request) -> None:
            """Somebody pushes as soon as the configuration was read."""
            if request.method == "GET" and request.path.endswith(CONFIG):
                moved = hub.repos["/".join(request.path.split("/")[1:3])]
                moved.branches["main"] = moved.branches["next"]

        hub.on_request = move
        runs = client(
            hub,
            "swap sample:collins sample:collins -o one.png --crop --weights hf:org/one --json",
            "swap --pairs pairs.csv -o many --weights hf:org/many --json",
            "matrix --sources sample:collins --targets sample:collins --crop --json "
            "--weights hf:org/figure -o figure.png",
            "evaluate hf:org/rows --pairs pairs.csv --metrics recon-l1 --json -",
            "inspect one.png --json",
        )
    assert [run.code for run in runs] == [0] * 5, [run.err for run in runs]
    one, _, figure, rows, inspected = (json.loads(run.out) for run in runs)
    told = {
        "one": one["revision"],
        "many": json.loads((tmp_path / "many" / "run.json").read_text())["weights"]["revision"],
        "figure": figure["columns"][0]["revision"],
        "rows": rows["reports"][0]["protocol"]["weights"]["revision"],
    }
    located = {name: list(hub.repos[f"org/{name}"].commits)[1] for name in repos}
    assert told == located
    assert located["one"] in json.dumps(inspected)
    assert digest(folder / MODEL) != digest(tmp_path / "other" / MODEL)
    assert not [one for one in hub.log if one.path.endswith(digest(tmp_path / "other" / MODEL))]
    for name in repos:
        asked = [one for one in hub.log if one.path.endswith(f"/{CONFIG}") and name in one.path]
        assert [one.method for one in asked] == ["HEAD", "GET"], name


# -- licences ------------------------------------------------------------------------------------


def test_a_company_can_refuse_what_lies_in_the_cache(
    client: Client, hub: LoopbackHub, folder: Path
) -> None:
    (unreadable,) = client(hub, "weights list", HF_HUB_CACHE=__file__)
    assert (unreadable.code, f"{__file__} is no folder" in unreadable.err) == (4, True)
    before, pulled, after, copyleft, wrong = client(
        hub,
        "weights list --licences --fail-on non-commercial",
        f"weights pull hf:{NAME}",
        "weights list --fail-on non-commercial",
        f"weights list --licences {folder} --fail-on research-only",
        "weights list --fail-on noncommercial",
    )
    assert (before.code, pulled.code) == (0, 0), before.err
    assert "CC-BY-NC-4.0 (non-commercial)" in pulled.out
    assert after.code == 3
    assert "1 licence(s) are non-commercial or worse" in after.err
    assert copyleft.code == 0
    assert copyleft.out.count("CC-BY-NC-4.0") == 2
    assert (wrong.code, "Did you mean 'non-commercial'?" in wrong.err) == (2, True)
