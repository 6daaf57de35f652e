"""Core's advice in Python terms, told in the options of the running command."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
import typer

from facke_cli.advice import command_of, in_options, speak_for
from facke_cli.main import main
from facke_core import CommandSpec, Registry, hookimpl
from facke_core.errors import FackeError, UsageError

TERMS = {"overwrite": "force", "view": "crop"}


def paint(
    sources: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE")],
    device: str = "cpu",
    judge: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    size: Annotated[int, typer.Option(min=1)] = 1,
    resume: Annotated[bool, typer.Option("--resume")] = False,
    force: Annotated[bool, typer.Option("--force")] = False,
    crop: Annotated[bool, typer.Option("--crop/--no-crop")] = False,
    place: Annotated[Path | None, typer.Argument()] = None,
) -> None:
    """A command."""
    raise UsageError(f"{place} is done. Go on with `resume=True`, or without `device`.")


@pytest.fixture(autouse=True)
def spoken_for() -> Iterator[None]:
    speak_for(command_of("paint", paint), paint)
    yield
    speak_for()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Go on with `resume=True`.", "Go on with --resume."),
        ("Leave `judge` out.", "Leave --judge out."),
        ("Name one: `judge=...`.", "Name one: --judge NAME."),
        ("Try `judge='hf:o/r'` or `judge='a b'`.", "Try --judge hf:o/r or --judge 'a b'."),
        ("Try another `size=...`.", "Try another --size SIZE."),
        ("`size=2, device='cpu'`", "--size 2 --device cpu"),
        ("`judge={'name': 'a', 'on': True}`", """--judge '{"name": "a", "on": true}'"""),
        ("`sources=['a=1', 'b.c=2']`", "--set a=1 --set b.c=2"),
        ("Use `overwrite=True` or `view='crops'`.", "Use --force or --crop."),
        ("`prepare(PHOTOS, 'a b', size=8, aligned=True)`", "facke prepare PHOTOS 'a b' "),
        ("`convert(FILE, out=DIR, kind='cvae')`", "facke weights convert FILE --out DIR --from "),
        ("`load('./x y')`", "facke swap SOURCE TARGET -o OUT.png --weights './x y'"),
    ],
)
def test_an_argument_is_told_as_the_option_that_sets_it(said: str, told: str) -> None:
    assert in_options(said).startswith(told)
    assert "`" not in in_options(said)


@pytest.mark.parametrize(
    "said",
    [
        "`seed=3`",
        "`place`",
        "`size=2, seed=3`",
        "`facke weights convert`",
        "`prepare(PHOTOS, colour=1)`",
        "`judge=a + b`",
        "`judge=f(1)`",
        "`)(`",
        "`a) or (b`",
        "`open('x')`",
        "``",
    ],
)
def test_what_no_option_sets_stays_as_it_is(said: str) -> None:
    assert in_options(said) == said


def test_messages_of_a_command_name_its_options_and_no_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    registry = Registry()
    spec = CommandSpec(name="paint", target=f"{__name__}:paint", help="")
    plugin = types.SimpleNamespace(facke_commands=hookimpl(lambda: [spec]))
    registry.register(plugin, "paint-plugin")
    monkeypatch.setattr("facke_cli.main.default_registry", lambda: registry)
    assert main(["paint", "a.png", "--set", "x=1"]) == 2
    error = capsys.readouterr().err
    assert error == "facke: a.png is done. Go on with --resume, or without --device.\n"
    assert main(["nothing"]) == 2
    assert in_options("`resume=True`") == "`resume=True`", "no command runs any more"


def test_warnings_of_a_command_name_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from facke_core.errors import FackeWarning

    def warned(_: object) -> None:
        speak_for(command_of("paint", paint), paint)
        warnings.warn("Lower it: `sources=['a=1']`.", FackeWarning, stacklevel=1)

    monkeypatch.setattr("facke_cli.main._dispatch", warned)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([]) == 0
    assert capsys.readouterr().err == "facke: warning: Lower it: --set a=1.\n"


def test_python_users_read_python() -> None:
    with pytest.raises(FackeError, match=r"with `resume=True`"):
        paint(["a"])
