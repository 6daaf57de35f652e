"""Optional packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from facke_core import environment
from facke_core.errors import UnavailableError


def test_what_a_package_adds_to_the_search_path_is_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = f"import sys; sys.path.append({str(tmp_path / 'inside')!r}); VALUE = 3"
    (tmp_path / "pushy_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    before = list(sys.path)
    assert environment.require("pushy_package").VALUE == 3
    assert sys.path == before


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match=r'pip install "facke-core\[openvino\]"'):
        environment.require("openvino")
