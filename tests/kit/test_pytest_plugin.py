"""The plugin for pytest gives fixtures and disturbs nobody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from facke_core.errors import UsageError
from facke_core.plugins.registry import Registry
from facke_core.testing import TinyDetector, TinyEncoder
from facke_core.types import Face


def test_the_registry_is_empty_and_stays_so(facke_registry: Registry) -> None:
    assert facke_registry.plugins() == ()
    with pytest.raises(UsageError, match=r"facke_registry\.register"):
        facke_registry.discover()


def test_the_fixtures_make_faces_and_identities(tiny_encoder: TinyEncoder, faces: Any) -> None:
    drawn = faces(3, 50)
    assert drawn.shape == (3, 3, 50, 50)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    identity = tiny_encoder(drawn)
    torch.testing.assert_close(identity.norm(dim=1), torch.ones(3))
    assert float((identity @ identity.T - torch.eye(3)).abs().max()) < 0.99, "faces differ"
    assert torch.equal(drawn, faces(3, 50))
    assert not torch.equal(drawn, faces(3, 50, seed=1))


def test_the_tiny_detector_finds_drawn_faces_only(faces: Any) -> None:
    (face,) = TinyDetector()(faces(1, 100)[0])
    assert isinstance(face, Face)
    assert TinyDetector()(torch.zeros(3, 100, 100)) == []


@pytest.mark.parametrize("module", ["facke_core.testing._pytest_plugin", "facke_core.testing"])
def test_importing_it_loads_neither_torch_nor_numpy(module: str, tmp_path: Path) -> None:
    heavy = "{'torch', 'numpy', 'PIL'}"
    code = f"import {module}, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_run_of_somebody_else_does_not_load_torch(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import sys\n\n\ndef test_nothing(facke_registry):\n    assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-W", "error", "--strict-markers", "--strict-config", "test_theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
