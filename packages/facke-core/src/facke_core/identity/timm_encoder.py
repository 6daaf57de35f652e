"""Face recognisers in timm's layout, from the Hub or a folder.

For example ``hf:gaunernst/vit_tiny_patch8_112.cosface_ms1mv3`` and ``.arcface_ms1mv3``: vision
transformers trained with CosFace / ArcFace margins on MS1MV3, aligned to insightface's 112 px
template. Their weights carry the licence that their cards state; the data were for research.
"""

from __future__ import annotations

from typing import Any

from facke_core.errors import UnavailableError, WeightsError
from facke_core.identity.crops import CropEncoder
from facke_core.types import IdentityEncoderSpec
from facke_core.weights.layout import MODEL
from facke_core.weights.pinned import encoder_folder
from facke_core.weights.tensors import check_numbers

__all__: list[str] = []


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
    try:
        network: Any = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{model!r} is not a timm model that this timm {timm.__version__} can build: {error}"
        ) from error
    check_numbers(network.state_dict(), model)
    settings = network.pretrained_cfg
    _, height, width = settings["input_size"]
    spec = IdentityEncoderSpec(
        name="timm",
        embedding_dim=network.num_classes or network.num_features,
        input_size=(height, width),
        template=crop_template,
        license=settings.get("license") or "",
    )
    return CropEncoder(
        network,
        spec,
        template=template,
        normalize=(tuple(settings["mean"]), tuple(settings["std"])),
    )
