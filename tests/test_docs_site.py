"""The site: it builds without a warning and without a network, and asks no other host for anything.

It is built once, which takes most of the time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import facke_core

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("mkdocstrings_handlers.python")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FETCHED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
    "object": "data",
}
"""Elements whose address a browser opens by itself."""

Built = tuple[Path, str]


class Reader(HTMLParser):
    """What a browser fetches for a page, and where its links lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.navigation: set[str] = set()
        self.ids: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in FETCHED and FETCHED[tag] in values:
            self.fetched.append(values[FETCHED[tag]])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
            if "md-nav__link" in values.get("class", ""):
                self.navigation.add(values["href"])
        self.ids.update(values[name] for name in ("id", "name") if name in values)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The site, and what building it printed. A connection would fail: the proxy is no server."""
    site = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(site)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pages(built: Built) -> dict[str, Reader]:
    site, _ = built
    return {path.relative_to(site).as_posix(): Reader(path) for path in site.rglob("*.html")}


def test_the_site_builds_without_a_warning(built: Built) -> None:
    assert built[1].strip() == ""


def test_no_page_fetches_anything_from_another_host(built: Built, pages: dict[str, Reader]) -> None:
    foreign = {
        (name, one)
        for name, page in pages.items()
        for one in page.fetched
        if re.match(r"(\w+:)?//", one)
    }
    assert foreign == set()
    for style in built[0].rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import\s*)[\"']?([^\"')]+)", style.read_text("utf-8"))
        assert [one for one in addresses if re.match(r"(https?:)?//", one)] == [], style.name


def test_every_page_of_the_documentation_is_in_the_navigation(pages: dict[str, Reader]) -> None:
    reachable = pages["index.html"].navigation
    for path in DOCS.rglob("*.md"):
        name = path.relative_to(DOCS).with_suffix(".html").as_posix()
        assert name == "index.html" or name in reachable, f"{name}: add it to nav in mkdocs.yml"
    for name in ("RESPONSIBLE_USE.html", "CHANGELOG.html", "CONTRIBUTING.html"):
        assert name in reachable


def test_links_and_pictures_of_the_site_lead_somewhere(
    built: Built, pages: dict[str, Reader]
) -> None:
    site, _ = built
    broken = []
    for name, page in pages.items():
        if name == "404.html":
            continue
        for link in [*page.links, *page.fetched]:
            path, _, anchor = link.partition("#")
            if re.match(r"\w+:", path):
                continue
            goal = os.path.normpath((Path(name).parent / path).as_posix()) if path else name
            known = pages.get(goal)
            missing = anchor and known and anchor not in known.ids | {"__comments"}
            if missing or not (site / goal).is_file():
                broken.append(f"{name}: {link}")
    assert broken == []


def test_the_reference_shows_what_facke_core_exports(pages: dict[str, Reader]) -> None:
    links = {link for link in pages["api/index.html"].links if link.partition("#")[2]}
    shown = {link.rpartition(".")[2] for link in links}
    assert set(facke_core.__all__) - {"__version__"} <= shown
    for page, name in {
        "weights": "facke_core.loading.load",
        "pipeline": "facke_core.pipeline.SwapPipeline.swap_many",
        "contracts": "facke_core.types.FaceBatch",
        "losses": "facke_core.losses.functional.gradient_penalty",
        "testing": "facke_core.testing.MethodConformance",
        "diffusion": "facke_diffusion.ilvr.project",
    }.items():
        assert name in pages[f"api/{page}.html"].ids, (page, name)


def test_names_of_code_in_pages_lead_to_the_reference(built: Built) -> None:
    """A name that nothing has would stay a ``span``; private ones are not in the reference."""
    unknown = {
        (path.stem, name)
        for path in built[0].glob("*.html")
        for name in re.findall(r'<span title="(facke_[\w.]+)"', path.read_text("utf-8"))
    }
    assert {name for _, name in unknown if "._" not in name} == set(), unknown


def test_equations_of_each_method_link_to_their_code(built: Built) -> None:
    for page, name in {
        "simswap": "api/networks.html#facke_core.nn.adain.AdaIN",
        "autoencoders": "api/losses.html#facke_core.losses.functional.kl_divergence",
        "ilvr": "api/diffusion.html#facke_diffusion.ilvr.project",
    }.items():
        assert f'href="{name}"' in (built[0] / f"{page}.html").read_text("utf-8")


def test_docstrings_have_no_roles_left(built: Built) -> None:
    for path in (built[0] / "api").glob("*.html"):
        assert not re.search(r":(class|func|meth|mod|data):<code", path.read_text("utf-8")), path


def test_the_search_finds_pages_and_functions(built: Built) -> None:
    index = json.loads((built[0] / "search" / "search_index.json").read_text("utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    assert "quickstart.html" in places
    assert "api/losses.html#facke_core.losses.functional.kl_divergence" in places
