"""The documentation is true: its code runs, its links resolve, its reference pages are current."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import facke_cli.samples
from facke_core import protocols
from facke_core.plugins import hookspecs
from facke_core.plugins.registry import default_registry
from loopback_hub import WRITER, LoopbackHub

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, *sorted(ROOT.glob("[!R]*.md")), *sorted(ROOT.glob("packages/*/README.md"))]
LINKED.append(ROOT / "RESPONSIBLE_USE.md")
REASONS = {
    "needs PyPI",
    "uses the network",
    "takes hours",
    "needs several machines",
    "starts Ray",
    "these are the tests",
    "quoted from facke_core.protocols",
}
"""Why a block is not run; the last kind is compared instead."""
MAX_NOT_RUN = 8
"""Blocks that are neither run nor compared. Think twice before you raise it."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|file|part of): (?P<value>[^\n]+?) -->\n+)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    flags=re.M | re.S,
)


class Block(NamedTuple):
    """One fenced block."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    value: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        parts = match.group("language", "text", "mark", "value")
        found.append(Block(page, line, *(part or "" for part in parts)))
    assert text.count("\n```") + text.startswith("```") == 2 * len(found), f"{page}: odd fences"
    return found


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# -- running the pages ---------------------------------------------------------------------------


class Reader:
    """Does what a page says, in one folder, from top to bottom.

    Lines with ``facke`` run in this process, since importing torch takes longer than most of them;
    ``pip install ./FOLDER`` builds the folder's wheel and unpacks it into a folder on the path,
    which is what pip does with it, but without a network and without changing this environment;
    everything else goes to a shell. A block that is ``part of`` a file is not run but looked for in
    that file, which an earlier command has written.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.names: dict[str, Any] = {"__name__": "page"}
        self.stack = ExitStack()
        self.hub: LoopbackHub | None = None

    def do(self, block: Block) -> None:
        if block.mark == "file":
            path = self.folder / block.value
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.mark == "part of":
            text = (self.folder / block.value).read_text("utf-8")
            assert block.text in text, f"{block.place}: is not in {block.value}"
        elif block.language == "python":
            code = compile("\n" * (block.line - 1) + block.text, block.place, "exec")
            exec(code, self.names)
        elif block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                self.command(line.removeprefix("./dev "), block)

    def command(self, line: str, block: Block) -> None:
        words = shlex.split(line, comments=True)
        if words[:2] == ["facke", "weights"] and any(word.startswith("hf:") for word in words):
            self.on_hub(words, block)
        elif words[:1] == ["facke"]:
            from facke_cli.main import main

            assert main(words[1:]) == 0, f"{block.place}: {line}"
        elif words[:2] == ["pip", "install"]:
            self.install(self.folder / words[2])
        elif words:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            subprocess.run(
                ["sh", "-ec", line],
                cwd=self.folder,
                env={**os.environ, "PATH": path},
                check=True,
                timeout=120,
            )

    def on_hub(self, words: list[str], block: Block) -> None:
        """With a Hub on loopback, in a process that has not imported ``huggingface_hub`` yet."""
        if self.hub is None:
            self.hub = self.stack.enter_context(LoopbackHub())
        settings = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": WRITER,
        }
        facke = [sys.executable, "-c", "from facke_cli.main import run; run()", *words[1:]]
        done = subprocess.run(facke, env={**os.environ, **settings}, timeout=120)
        assert done.returncode == 0, f"{block.place}: {words}"

    def install(self, project: Path) -> None:
        build = "import hatchling.build, sys; print(hatchling.build.build_wheel(sys.argv[1]))"
        dist, site = self.folder / "dist", self.folder / "site"
        dist.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-c", build, str(dist)],
            cwd=project,
            check=True,
            capture_output=True,
            text=True,
        )
        with zipfile.ZipFile(dist / done.stdout.split()[-1]) as wheel:
            wheel.extractall(site)
        path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
        self.monkeypatch.setenv("PYTHONPATH", path)
        self.monkeypatch.syspath_prepend(site)
        importlib.invalidate_caches()
        default_registry.cache_clear()


def _new_process() -> None:
    """Accelerate keeps its precision for the life of a process, here that of all tests."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """In a folder with two pictures, photographs of two people, and the repository's tools."""
    samples = Path(facke_cli.samples.__file__).parent
    for name, sample in (("source.jpg", "hopper.jpg"), ("target.jpg", "collins.png")):
        from PIL import Image

        Image.open(samples / sample).convert("RGB").save(tmp_path / name)
        person = tmp_path / "photos" / sample.partition(".")[0]
        person.mkdir(parents=True)
        shutil.copy(samples / sample, person / sample)
    for name in ("tools", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    modules = set(sys.modules)
    _new_process()
    reader = Reader(tmp_path, monkeypatch)
    with reader.stack:
        yield reader
    _new_process()
    default_registry.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith("facke_demo"):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_code_of_a_page_runs(page: Path, reader: Reader) -> None:
    for block in blocks(page):
        if block.mark != "not run":
            reader.do(block)


def test_blocks_that_are_not_run_are_few_and_say_why() -> None:
    marked = [block for page in LINKED for block in blocks(page) if block.mark == "not run"]
    assert {block.value for block in marked} <= REASONS
    skipped = [block.place for block in marked if not block.value.startswith("quoted")]
    pages = [place for place in skipped if not place.startswith("CONTRIBUTING")]
    assert len(pages) <= MAX_NOT_RUN, pages


def test_blocks_have_a_language_that_the_tests_know() -> None:
    for page in LINKED:
        for block in blocks(page):
            assert block.language in {"sh", "python", "json", "toml", "text"}, block.place


def test_json_and_toml_can_be_parsed() -> None:
    for page in LINKED:
        for block in blocks(page):
            with suppress(KeyError):
                {"json": json.loads, "toml": tomllib.loads}[block.language](block.text)


def test_the_readme_has_the_two_commands_of_a_newcomer() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert "./dev facke swap sample:collins sample:hopper -o out.png" in lines
    assert "./dev pytest" in lines


# -- links ---------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, flags=re.M):
        kept = re.sub(r"[^\w\- ]", "", title.lower())
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and anchor not in anchors(goal)):
            broken.append(link)
    assert broken == []


def test_packages_link_to_nothing_that_pypi_cannot_show() -> None:
    for page in ROOT.glob("packages/*/README.md"):
        links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
        assert all(link.startswith("https://") for link in links), page


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    for page in PAGES[1:]:
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "index.md" or f"({name})" in index, name


# -- reference pages -----------------------------------------------------------------------------


def hooks() -> dict[str, str]:
    """Name -> signature as it is written in the source, with descriptions by their bare names."""
    tree = ast.parse(inspect.getsource(hookspecs).replace("specs.", ""))
    return {
        node.name: f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.returns is not None
    }


def test_every_hook_is_documented_with_its_exact_signature() -> None:
    assert len(hooks()) == 8
    text = (ROOT / "docs" / "hooks.md").read_text("utf-8")
    documented = re.findall(r"^## `(facke_.+)`$", text, flags=re.M)
    assert documented == list(hooks().values())


def members(code: str) -> dict[str, list[str]]:
    """Class -> its base and members, without docstrings."""
    found = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.ClassDef) and any(
            "Protocol" in ast.unparse(base) for base in node.bases
        ):
            node.decorator_list = []
            for function in node.body:
                if isinstance(function, ast.FunctionDef):
                    function.body = [ast.Expr(ast.Constant(...))]
            kept = [one for one in node.body if isinstance(one, ast.FunctionDef)]
            found[node.name] = [ast.unparse(base) for base in node.bases]
            found[node.name] += [ast.unparse(function) for function in kept]
    return found


def test_every_protocol_is_quoted_exactly() -> None:
    quoted = [
        block.text
        for block in blocks(ROOT / "docs" / "protocols.md")
        if block.value == "quoted from facke_core.protocols"
    ]
    assert members("\n".join(quoted)) == members(inspect.getsource(protocols))


def test_the_page_of_the_commands_is_current() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_cli_page.py"))
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert page == tool["render"](), "run: ./dev python tools/write_cli_page.py"


def test_every_loss_term_is_documented() -> None:
    from facke_core.losses.terms import TERMS

    text = (ROOT / "docs" / "train.md").read_text("utf-8")
    assert [name for name in TERMS if f"`{name}`" not in text] == []


def test_every_encoder_and_detector_is_documented() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    text += (ROOT / "docs" / "quickstart.md").read_text("utf-8")
    registry = default_registry()
    names = [*registry.encoders, *registry.detectors]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_the_cosines_of_the_default_encoder_are_those_that_were_measured() -> None:
    from facke_core.identity import dlib_resnet

    measured = json.loads(Path(dlib_resnet.__file__).with_name("dlib_mean.json").read_text())
    text = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    for key in ("cosine_raw", "cosine_centred"):
        assert f"{measured[key]['different']:.2f} and" in text
        assert f"one person {measured[key]['same']:.2f}" in text
