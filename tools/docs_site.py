"""Makes a site of pages that are written for GitHub: the hooks of mkdocs.yml.

* Files of the repository that pages link to become pages too: Markdown as it is, folders as a list
  of their files. Links to modules lead to the API reference.
* The API reference: one page per group of modules, made from their docstrings by mkdocstrings.
* Names such as ``facke_core.losses.terms`` in pages and docstrings link to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
IN_NAV = [ROOT / "RESPONSIBLE_USE.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
"""Pages beside docs/ that mkdocs.yml lists."""
SOURCES = sorted(
    path for path in ROOT.glob("packages/*/src/*") if path.name not in {"facke_cli", "__pycache__"}
)

API = {
    "pipeline": (
        "Pipeline",
        "facke_core: pipeline results building faces identity images figures jobs",
    ),
    "contracts": ("Contracts", "facke_core: protocols types objective errors sampling"),
    "plugins": ("Plugins", "facke_core: plugins"),
    "weights": ("Weights", "facke_core: loading weights publish convert"),
    "networks": ("Networks", "facke_core: nn"),
    "losses": ("Losses", "facke_core: losses"),
    "data": ("Data", "facke_core: data prepare"),
    "training": ("Training", "facke_core: training"),
    "evaluation": ("Evaluation", "facke_core: evaluation"),
    "backends": ("Backends", "facke_core: backends"),
    "testing": ("Testing", "facke_core: testing"),
    "base": ("Base", "facke_core:"),
    "gan": ("facke-gan", "facke_gan:"),
    "vae": ("facke-vae", "facke_vae:"),
    "diffusion": ("facke-diffusion", "facke_diffusion:"),
}
"""Page below api/ -> title; package and those of its modules, with all in them, that are described
there. A page that names no modules has those that no other page has."""
WITH_SOURCE = {"losses", "networks", "gan", "vae", "diffusion"}
"""Where equations are computed. With the source of everything a page would have megabytes."""

_LATER = "---\nsearch:\n  boost: 0.3\n---\n"
"""Written pages come before the reference in a search."""
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
_FILE = re.compile(r"^<!-- file: (\S+) -->\n+```(\w+)$", flags=re.M)
_NAME = r"facke_(?:core|gan|vae|diffusion)(?:\.[A-Za-z]\w*)+"
_CODE = re.compile(rf'<code>({_NAME})</code>(?!</a>|<a class="headerlink)')
_ROLE = re.compile(r":\w+:<code>(?:(?P<title>[^<]+) &lt;)?~?(?P<name>[\w.]+)(?:&gt;)?</code>")
_SOURCE = '<details class="mkdocstrings-source">'


class Public(griffe.Extension):
    """Takes out of classes what nobody calls but Python; shows, where it is written, what
    ``facke_core`` itself offers."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: object) -> None:
        if pkg.name == "facke_core":
            for name in pkg.exports or ():
                member = pkg.members[str(name)]
                if isinstance(member, griffe.Alias) and member.target_path.startswith(pkg.name):
                    inside = member.target_path.removeprefix(f"{pkg.name}.")
                    pkg[inside].public = True

    def on_class(self, *, cls: griffe.Class, **kwargs: object) -> None:
        cls.members.pop("__post_init__", None)


def modules() -> list[str]:
    """The dotted names of all public modules. Of a package with ``__all__``, its own alone."""
    found = []
    for package in SOURCES:
        for path in package.rglob("*.py"):
            name = path.parent if path.name == "__init__.py" else path.with_suffix("")
            parts = name.relative_to(package.parent).parts
            exported = len(parts) > 2 and _exports(name.parent / "__init__.py")
            if len(parts) > 1 and not exported and not any(part.startswith("_") for part in parts):
                found.append(".".join(parts))
    return sorted(found)


def page_of(module: str) -> str:
    """The page of the API reference that describes a module."""
    package, name = module.split(".")[:2]
    pages = {page: about.partition(":") for page, (_, about) in API.items()}
    own = [page for page, (of, _, _) in pages.items() if of == package]
    return next((page for page in own if name in pages[page][2].split()), own[-1])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the API reference and the files of the repository that pages link to."""
    pages: dict[str, list[str]] = {page: [] for page in API}
    for module in modules():
        pages[page_of(module)].append(module)
    for page, found in pages.items():
        options = "    options:\n      show_source: true\n" if page in WITH_SOURCE else ""
        content = f"{_LATER}# {API[page][0]}\n"
        content += "".join(f"\n::: {name}\n{options}" for name in found)
        files.append(File.generated(config, f"api/{page}.md", content=content))
    files.append(File.generated(config, "api/index.md", content=_names()))

    waiting, seen = [*DOCS.rglob("*.md"), *IN_NAV], set()
    while waiting:
        path = waiting.pop()
        if path in seen or path.suffix == ".py":
            continue
        seen.add(path)
        if path.is_dir():
            files.append(File.generated(config, _uri(path), content=_listing(path)))
        elif path.suffix == ".md":
            waiting += _links(path)
            if not path.is_relative_to(DOCS):
                files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
        elif not path.is_relative_to(DOCS):
            files.append(File.generated(config, _uri(path), content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the repository to links of the site; names of files over their blocks."""
    if not page.file.abs_src_path:
        return markdown
    path = Path(page.file.abs_src_path)
    here = os.path.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        goal = (path.parent / match[1]).resolve()
        if "://" in match[1] or not goal.exists():
            return match[0]
        if goal.suffix == ".py":
            return f"][{_module(goal)}]"
        return f"]({os.path.relpath(_uri(goal), here or '.')}{match[2] or ''})"

    return _FILE.sub(r'```\2 title="\1"', _LINK.sub(link, markdown))


def on_page_content(html: str, /, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Names of modules and what is in them to links, where the API reference knows them."""
    html = _ROLE.sub(lambda m: _reference(m["name"], m["title"] or m["name"].split(".")[-1]), html)
    html = _CODE.sub(lambda match: _reference(match[1], match[1]), html)
    html = html.replace("::</p>", ":</p>")  # what introduces a block in a docstring
    return html.replace(_SOURCE, f"{_SOURCE[:-1]} data-search-exclude>")


def _reference(name: str, text: str) -> str:
    shown = text.replace(".", ".<wbr>")  # where a narrow table may break it
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'


def _links(path: Path) -> Iterator[Path]:
    """The files and folders of the repository that a page links to."""
    for link, _ in _LINK.findall(path.read_text("utf-8")):
        goal = (path.parent / link).resolve()
        if "://" not in link and goal.exists():
            yield goal


def _uri(path: Path) -> str:
    """Where a file or folder of the repository is, as a source of the site."""
    path = path / "index.md" if path.is_dir() else path
    return path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()


def _exports(path: Path) -> bool:
    return "\n__all__ = " in path.read_text("utf-8")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[parts.index("src") + 1 :])


def _listing(folder: Path) -> str:
    """A page with the files of a folder: links to pages, the text of others."""
    parts = [f"# {folder.relative_to(ROOT).as_posix()}\n"]
    for path in sorted(folder.iterdir()):
        if path.suffix == ".md":
            parts.append(f"* [{path.stem}]({path.name})")
        elif path.suffix == ".json":
            parts.append(f"## {path.name}\n\n```json\n{path.read_text('utf-8')}```\n")
    return "\n".join(parts)


def _names() -> str:
    """The page of the names that facke_core exports, with the first line about each."""
    core = griffe.load("facke_core", search_paths=[str(path.parent) for path in SOURCES])
    lines = ["# Names", "", "What `from facke_core import ...` gives:", ""]
    lines += ["| name | what it is |", "| --- | --- |"]
    for name in core.exports or []:
        if name == "__version__":
            continue
        goal = core[str(name)]
        goal = goal.final_target if goal.is_alias else goal
        about = goal.docstring.value.splitlines()[0] if goal.docstring else ""
        lines.append(f"| [`{name}`][{goal.path}] | {about} |")
    return "\n".join(lines)
