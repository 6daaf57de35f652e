"""Licences: their classes, what a method's parts are under, and who is told."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from facke_core import default_registry
from facke_core.errors import LicenseWarning
from facke_core.publish.card import model_card
from facke_core.weights import licenses
from facke_core.weights.inventory import known_weights, not_allowed
from facke_core.weights.layout import WeightsConfig


@pytest.mark.parametrize(
    ("spdx", "kind"),
    [
        ("Apache-2.0", "permissive"),
        ("CC-BY-4.0", "permissive"),
        ("CC-BY-SA-4.0", "copyleft"),
        ("AGPL-3.0-or-later", "copyleft"),
        ("CC-BY-NC-4.0", "non-commercial"),
        ("CC-BY-NC-SA-4.0", "non-commercial"),
        ("LicenseRef-insightface-non-commercial", "non-commercial"),
        ("LicenseRef-research-only", "research-only"),
        ("MIT AND CC-BY-NC-4.0", "non-commercial"),
        ("MIT OR GPL-3.0-only", "permissive"),
        ("(MIT OR GPL-3.0-only) AND LGPL-2.1-only", "copyleft"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "copyleft"),
        ("CC-BY-ND-4.0", "unknown"),
        ("MIT-like", "unknown"),
        ("MIT AND", "unknown"),
        ("(MIT", "unknown"),
        pytest.param("(" * 5000, "unknown", id="nested endlessly"),
        ("MIT Apache-2.0", "unknown"),
        ("", "unknown"),
    ],
)
def test_an_identifier_has_a_class(spdx: str, kind: str) -> None:
    assert licenses.classify(spdx) == kind


def weights(license_: str, **encoder: str) -> WeightsConfig:
    return WeightsConfig(
        method="simswap", alignment={}, license=license_, identity_encoder=encoder or None
    )


def told(config: WeightsConfig, name: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            licenses.announce(config, name=name, revision="c" * 40, registry=default_registry())
    assert {one.category for one in caught} <= {LicenseWarning}
    return [str(one.message) for one in caught]


def test_who_uses_restricted_weights_is_told_once() -> None:
    (message,) = told(weights("CC-BY-NC-4.0"), "hf:org/a")
    assert message.startswith("The weights hf:org/a@cccccccccccc are under CC-BY-NC-4.0 (non-com")
    (message,) = told(weights("CC-BY-NC-4.0"), "hf:org/my-encoder")
    assert message.startswith("The weights hf:org/my-encoder@cccccccccccc are under")
    (message,) = told(weights("MIT", name="arcface", weights="./arcface"), "hf:org/own")
    assert message.startswith(
        "The encoder's weights arcface ./arcface are under CC-BY-NC-4.0 (non-"
    )
    (message,) = told(weights("MIT", name="timm", license="CC-BY-NC-4.0"), "hf:org/b")
    assert message.startswith("The encoder's weights timm are under CC-BY-NC-4.0")
    assert told(weights("Apache-2.0", name="dlib-resnet29"), "hf:org/c") == []


def test_a_missing_licence_is_told_of_others_weights_only() -> None:
    assert told(weights(""), "my-run") == []
    (message,) = told(weights(""), "hf:org/d")
    assert "state no licence" in message


def test_the_command_line_says_it_once_per_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    assert [licenses.first_time(text) for text in "aab"] == [True, False, True]
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path / "other"))
    assert licenses.first_time("a")


def test_all_installed_weights_and_their_parts_are_permissive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = known_weights()
    assert {one.weights for one in found} >= {"simswap.mini", "cvae-gan.mini", "ilvr.mini"}
    assert list(not_allowed(found, "copyleft")) == []
    (mini,) = (one for one in found if one.weights == "simswap.mini")
    assert [part.part for part in mini.parts][:2] == ["weights", "encoder"]
    assert "detector" in {part.part for part in mini.parts}


def test_a_limit_covers_all_that_asks_for_more_care(tmp_path: Path) -> None:
    for name, spdx in {"free": "MIT", "none": "", "nc": "CC-BY-NC-4.0"}.items():
        (tmp_path / name).mkdir()
        config = {"method": "simswap", "alignment": {}, "license": spdx}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    folders = [tmp_path / name for name in ("free", "none", "nc")]
    found = [one for one in known_weights(folders) if one.where == "folder"]

    def refused(limit: str) -> list[str]:
        return [Path(one.weights).name for one, _ in not_allowed(found, limit)]

    assert refused("non-commercial") == ["none", "nc"]
    assert refused("research-only") == ["none"]


# -- the model card ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spdx", "lines"),
    [
        ("Apache-2.0", ["license: apache-2.0"]),
        ("GPL-3.0-or-later", ["license: gpl-3.0"]),
        ("CC-BY-NC-SA-4.0", ["license: cc-by-nc-sa-4.0"]),
        (
            "PolyForm-Noncommercial-1.0.0",
            [
                "license: other",
                "license_name: polyform-noncommercial-1.0.0",
                "license_link: https://spdx.org/licenses/PolyForm-Noncommercial-1.0.0.html",
            ],
        ),
        ("LicenseRef-my own", ["license: other", "license_name: licenseref-my-own"]),
        ("", []),
    ],
)
def test_a_card_has_a_licence_that_the_hub_knows(spdx: str, lines: list[str]) -> None:
    front = model_card(weights(spdx)).split("---\n")[1].splitlines()
    assert [line for line in front if line.startswith("license")] == lines


def test_a_card_names_its_base_and_its_place() -> None:
    config = WeightsConfig(
        method="simswap", alignment={}, training={"begun with": f"hf:org/base {'a' * 40}"}
    )
    card = model_card(config, repo_id="org/name")
    assert "base_model: org/base\n" in card
    assert 'load("hf:org/name")' in card
    assert "base_model" not in model_card(weights("MIT"))


def test_a_card_shows_what_facke_evaluate_measured() -> None:
    metric = {"unit": "dB", "higher_is_better": True}
    report = {
        "name": "mine",
        "protocol": {},
        "metrics": {"psnr": metric, "ssim": {**metric, "unit": ""}},
        "summary": {
            "psnr": {"value": 28.1234567, "low": 27.5, "high": 29, "n": 60, "missing": 0},
            "ssim": {"value": None, "low": None, "high": None, "n": 0, "missing": 60},
        },
        "undetected": 2,
    }
    card = model_card(weights("MIT"), {"facke_evaluation": 1, "reports": [report]})
    assert "| psnr (higher is better) | 28.12 dB [27.5, 29] (n = 60) |" in card
    assert "| ssim (higher is better) | - |" in card
    assert "| results without a face | 2 |" in card
