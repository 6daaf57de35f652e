"""Face recognisers in timm's layout, from the Hub or a folder.

For example ``hf:gaunernst/vit_tiny_patch8_112.cosface_ms1mv3`` and ``.arcface_ms1mv3``: vision
transformers trained with CosFace / ArcFace margins on MS1MV3, aligned to insightface's 112 px
template. Their weights carry the licence that their cards state; the data were for research.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from facke_core.config import from_dict, read_json
from facke_core.errors import (
    ConfigError,
    FackeError,
    UnavailableError,
    WeightsError,
    check_ranges,
)
from facke_core.identity.crops import CropEncoder
from facke_core.types import IdentityEncoderSpec
from facke_core.weights.layout import MODEL, fill
from facke_core.weights.outline import check_outline
from facke_core.weights.pinned import encoder_folder, encoder_tensors

__all__: list[str] = []

LARGEST = 2048
"""Largest number that a model is built by: width, depth, side of a picture. Some of timm's models
count in loops up to it, so that the size of the file cannot be the only bound."""
_SHOWN = 300
"""Characters of what timm says that a message repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What facke itself takes from timm's settings of a model."""

    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    license: str | None

    def __post_init__(self) -> None:
        check_ranges(self, "pretrained_cfg", input_size=(1, LARGEST))


def build(
    *,
    model: str,
    revision: str | None = None,
    crop_template: str = "simswap_frontal",
    template: str = "arcface",
    local_files_only: bool = False,
) -> CropEncoder:
    """An identity encoder out of a timm model whose output is the embedding.

    Args:
        model: ``hf:org/repo@COMMIT`` or a folder, with timm's ``config.json`` and
            ``model.safetensors``. Pickled weights are never read.
        revision: the commit, where ``model`` does not say it.
        crop_template: the template of the crops that come in; empty: stretch them as they are.
        template: the template of the crops that the model was trained on.
        local_files_only: never contact the Hub.

    Raises:
        UsageError: the reference is not pinned to a commit, or no such folder.
        WeightsError: files are missing, do not fit, or hold numbers that are not finite.
        UnavailableError: timm does not work here, or the Hub is not reached.
    """
    folder = encoder_folder(
        model, revision, ["config.json", MODEL], local_files_only=local_files_only
    )
    try:
        import timm
    except ImportError as error:
        raise UnavailableError(
            f"The encoder {model!r} needs timm, which cannot be imported here: {error}. "
            "Run: pip install timm"
        ) from error
    architecture, given, about = _read(folder / "config.json")
    tensors = encoder_tensors(str(folder), None)

    def make() -> Any:
        # not by create_model, which fetches and unpickles whatever its arguments name
        entry = timm.models.model_entrypoint(architecture)
        return entry(pretrained=False, pretrained_cfg=about, **given)

    try:
        check_outline(make, tensors, source=model, built_by="its config.json")
        network = make()
    except FackeError:
        raise
    except Exception as error:  # timm's models raise nearly every type on what they do not know
        raise WeightsError(
            f"{model!r} is not a timm model that this timm {timm.__version__} can build: "
            f"{str(error)[:_SHOWN]}"
        ) from error
    fill(network, tensors, source=model, built_by="its config.json")
    network.eval()
    names = [entry.name for entry in fields(_Settings)]
    settings = from_dict(
        _Settings, {name: network.pretrained_cfg.get(name) for name in names}, where="config"
    )
    spec = IdentityEncoderSpec(
        name="timm",
        embedding_dim=network.num_classes or network.num_features,
        input_size=settings.input_size[1:],
        template=crop_template,
        license=settings.license or "",
    )
    return CropEncoder(
        network,
        spec,
        template=template,
        normalize=(settings.mean, settings.std),
    )


def _read(file: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return a model's name, its arguments, and what timm says of its weights.

    Raises:
        ConfigError: they are missing or of other types, or a number is too large.
    """
    config = read_json(file)
    about = config.pop("pretrained_cfg", None)
    if about is None:  # timm before 0.9: one object
        about = {k: v for k, v in config.items() if k not in ("architecture", "num_features")}
    name, given = config.get("architecture"), config.get("model_args") or {}
    if not (isinstance(name, str) and isinstance(given, dict) and isinstance(about, dict)):
        raise ConfigError(
            f"{file}: expected a text as architecture, and objects as model_args and "
            "pretrained_cfg. Copy or download the folder again."
        )
    for key, value in given.items():
        _check_numbers(f"{file}: model_args.{key}", value)
    if "num_classes" in config:
        about = about | {"num_classes": config["num_classes"]}
    return name, given, about


def _check_numbers(name: str, value: Any) -> None:
    """Raise ConfigError unless every number in an argument is small."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        if len(value) > LARGEST:
            raise ConfigError(f"{name} has {len(value)} entries, more than {LARGEST} at most.")
        for each in inner:
            _check_numbers(name, each)
    elif isinstance(value, int | float) and not -LARGEST <= value <= LARGEST:
        raise ConfigError(
            f"{name} is {value}, and models of numbers beyond {LARGEST} are not built. Choose "
            "another encoder."
        )
