"""Nothing that somebody else wrote reaches the terminal as it is."""

from __future__ import annotations

import io
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from facke_cli import console
from facke_cli.advice import in_options
from facke_cli.main import main
from facke_core import CommandSpec, MethodSpec, default_registry
from facke_core.errors import FackeError, FackeWarning
from facke_core.evaluation.report import EvaluationReport, MetricInfo
from facke_core.evaluation.statistics import Estimate
from facke_core.images.provenance import disclosure
from facke_core.types import SwapRequest
from standins import registry_of

HOSTILE = {
    "colours": "\x1b[31mred",
    "title": "\x1b]0;a title\x07",
    "link": "\x1b]8;;https://example.org\x1b\\here",
    "C1": "\x9b31m\x9d0;x\x9c",
    "bidi": "\u202egpj.exe\u2066\u2069\u061c",
    "erased": "kept\rgone\x08\x08",
    "lines": "a\nfacke: all is well\u2028\u2029\x0b\x0c\x85",
    "unseen": "\ufeffa\U000e0041",
    "deleted": "\x7f",
}
FORBIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\u2028\u2029\ufeff\U000e0041]"
)


def check(*shown: str) -> None:
    """No control character, and no line that only looks like one of facke's own."""
    for text in shown:
        assert not FORBIDDEN.search(text), repr(text)
        assert "\nfacke: all is well" not in text


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("call", [console.write, console.say])
def test_lines_and_tables_are_plain(
    call: Callable[..., None], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = HOSTILE[kind]
    call(f"{text}: a name")
    call(console.table(["name", "x"], [[text, 1], ["a", text]]), lines=True)
    shown = "".join(capsys.readouterr())
    check(shown)
    assert "a name" in shown
    with pytest.raises(AssertionError):
        check(text)


def test_the_letters_of_all_languages_and_the_lists_of_messages_stay() -> None:
    for text in ("Zoë 李 עברית فارسی 👩‍🔬", "Expected:\n  PHOTOS/PERSON/1.jpg\n  or\n\n", "a\\x1b"):
        assert console.plain(text) == text
    assert console.plain("a\x1b[2J\nb") == r"a\x1b[2J\nb"
    assert console.plain("a\nb\x1b", lines=True) == "a\nb\\x1b"


@pytest.mark.parametrize("kind", HOSTILE)
def test_errors_and_warnings_are_plain(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = HOSTILE[kind]

    def fail(error: Exception) -> Callable[[], None]:
        def methods() -> None:
            warnings.warn(f"{text} is odd", FackeWarning, stacklevel=1)
            raise error

        return methods

    for error in (FackeError(f"{text} is wrong"), ValueError(f"{text} is wrong")):
        monkeypatch.setattr("facke_cli.commands.methods.methods", fail(error))
        for words in (["methods"], ["methods", "--debug"]):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                assert main(words) in (1, 2)
            shown = capsys.readouterr()
            check(shown.out, shown.err.replace(f"{type(error).__name__}: a\nfacke: all is", ""))
            assert "is odd" in shown.err
            assert "is wrong" in shown.err
    assert main(["swap", f"{text}", "b", "c", "-o", f"{text}"]) == 2
    assert main(["swap", "--device", text]) == 2
    assert main([text]) == 2
    check(*capsys.readouterr())


def test_metadata_descriptions_and_reports_are_plain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = "".join(HOSTILE.values())
    file = tmp_path / "x\x1b[1m\u202e.png"
    request = SwapRequest(method="\u202e x", weights="\u009b w", revision="\u2028", seed=None)
    info = {"XML:com.adobe.xmp": disclosure(request).decode()}
    from PIL.PngImagePlugin import PngInfo

    pnginfo = PngInfo()
    for key, value in info.items():
        pnginfo.add_itxt(key, value)
    Image.new("RGB", (8, 8)).save(file, pnginfo=pnginfo)
    assert main(["inspect", str(file)]) == 0
    assert main(["inspect", str(file), "--json"]) == 0
    spec = MethodSpec(name="odd", summary=everything, config="a:A", build="a:b", license=everything)
    command = CommandSpec(name="odd", target="a:b", help=everything)
    registry = registry_of(
        f"plugin {everything}", facke_methods=lambda: [spec], facke_commands=lambda: [command]
    )
    for module in ("main", "commands.methods", "commands.plugins"):
        monkeypatch.setattr(f"facke_cli.{module}.default_registry", lambda: registry)
    assert main(["methods"]) == main(["plugins"]) == main(["--help"]) == 0
    assert main(["methods", "--json"]) == 0
    check(*capsys.readouterr())

    from facke_cli.tables import reports_text

    report = EvaluationReport(
        name=everything,
        protocol={},
        metrics={everything: MetricInfo(unit=everything, higher_is_better=True)},
        summary={everything: Estimate(value=1.0, n=1)},
        undetected=None,
        skipped={everything: 1},
        run={"seconds": {everything: 1.0}, "pairs_computed": 1, "workers": 1, "encoder_share": 0},
    )
    check(reports_text([report]))


def test_bars_are_plain_and_know_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with console.progress() as show:
        show("[bold]\x1b]0;title\x07[/nothing]", 1, 1)
    assert "]0;title\x07" not in stream.getvalue()
    assert r"[bold]\x1b]0;title\x07[/nothing]" in stream.getvalue()


def test_json_on_the_terminal_is_plain_and_says_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.emit(HOSTILE)
    shown = capsys.readouterr().out
    check(shown)
    assert json.loads(shown) == HOSTILE


def test_a_name_full_of_brackets_is_no_fault() -> None:
    for name in ("(" * 300, "-" * 100_000 + "1", "[" * 5000):
        assert in_options(f"see `{name}`") == f"see `{name}`"
    assert default_registry().methods
