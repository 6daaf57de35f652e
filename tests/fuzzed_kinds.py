"""The kinds of files that facke reads, each with honest contents and with what reads it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facke_core._files import sha256_of
from facke_core._tensors import read as read_tensor_file
from facke_core.building import build_method
from facke_core.config import from_dict, json_text, to_dict
from facke_core.convert.run import _read, _recognised
from facke_core.data.crops import IDENTITY, INDEX, CropSet
from facke_core.data.shards import write_shard
from facke_core.errors import FackeError, WeightsError
from facke_core.evaluation.html import page
from facke_core.evaluation.report import EvaluationReport, MetricInfo, diff, document, read_reports
from facke_core.evaluation.rows import Row, RowFiles, pack
from facke_core.evaluation.rows import _rows as read_rows
from facke_core.evaluation.statistics import Estimate
from facke_core.faces.mesh import SIZE
from facke_core.faces.templates import Alignment
from facke_core.identity import timm_encoder
from facke_core.identity.iresnet import arcface_network, cosface_network
from facke_core.images.io import read_image
from facke_core.images.provenance import disclosure, read_disclosure
from facke_core.jobs.pairs import read_pairs, read_same
from facke_core.jobs.swapping import Swap
from facke_core.jobs.swapping import _read as read_swaps
from facke_core.plugins.registry import default_registry
from facke_core.prepare.known import KnownCrops
from facke_core.prepare.photos import find_photos
from facke_core.prepare.prepare import _info
from facke_core.publish._curves import plot, read_curves, table_rows
from facke_core.publish.card import model_card
from facke_core.publish.golden import replay, write_golden
from facke_core.publish.save import save
from facke_core.training.recipe import read_recipe, terms
from facke_core.types import SwapRequest
from facke_core.weights.checkpoints import STATE, read_checkpoint
from facke_core.weights.layout import (
    CONFIG,
    GOLDEN,
    MODEL,
    FileInfo,
    WeightsConfig,
    read_weights_config,
)
from fuzzing import Kind
from pictures import encoded, smooth

STAGES: dict[str, Any] = {
    "image_size": 32,
    "identity_dim": 8,
    "channels": [4, 8, 8],
    "num_id_blocks": 1,
}
UNET = {
    "image_size": 32,
    "model_channels": 32,
    "channel_mult": [1, 1],
    "attention_resolutions": [],
    "num_head_channels": 32,
}
CONFIGS = [
    WeightsConfig(
        method=method,
        generator=generator,
        sampler=sampler,
        identity_encoder={"name": "arcface", "weights": "nowhere", "resize": "nearest"},
        alignment={"template": "ffhq", "size": 32, "border": "zeros"},
        files={},
        training={"steps": 5, "recipe": "x", "logs": {"log.jsonl": "0" * 64}},
        license="Apache-2.0",
    )
    for method, generator, sampler in (
        ("simswap", STAGES, {}),
        ("cvae-gan", {**STAGES, "latent": "spatial"}, {"temperature": 0.5}),
        ("ilvr", UNET, {"steps": 4, "factor": 4}),
    )
]


def kinds(folder: Path) -> dict[str, Kind]:
    """All kinds; honest files are made in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: make(folder / name) for name, make in _KINDS.items()}


def _filled(folder: Path) -> Iterator[tuple[WeightsConfig, dict[str, Tensor]]]:
    for number, config in enumerate(CONFIGS):
        method = build_method(config, registry=default_registry())
        config = save(method, folder / str(number), config, golden=False)
        yield config, read_tensor_file(folder / str(number) / MODEL).tensors


def _config(folder: Path) -> Kind:
    sets = list(_filled(folder))
    tensors = {config.method: state for config, state in sets}

    def read(file: Path) -> None:
        file.replace(folder / CONFIG)
        config = read_weights_config(folder)
        model_card(config)
        if config.identity_encoder:
            _encoder_of(config.identity_encoder)
        from_dict(Alignment, config.alignment, where="alignment")
        state = tensors.get(config.method, {})
        build_method(config, registry=default_registry(), read=lambda: state, source="fuzz")

    return Kind([json_text(to_dict(config)).encode() for config, _ in sets], read)


def _encoder_of(settings: Any) -> None:
    from facke_core.building import load_encoder

    if settings.get("name") != "dlib-resnet29":  # it is honest, and slow to load
        try:
            load_encoder(settings, local_files_only=True)
        except FackeError as error:
            str(error)


def _weights(folder: Path) -> Kind:
    sets = list(_filled(folder))

    def read(file: Path) -> None:
        file.replace(folder / MODEL)
        config = sets[0][0]
        files = {MODEL: FileInfo(sha256=sha256_of(folder / MODEL))}
        from facke_core.publish.golden import verify

        verify(folder, replace(config, files=files))

    return Kind([(folder / "0" / MODEL).read_bytes()], read)


def _golden(folder: Path) -> Kind:
    config, _ = next(_filled(folder))
    folder = folder / "0"
    config = write_golden(folder, config)

    def read(file: Path) -> None:
        file.replace(folder / GOLDEN)
        info = FileInfo(sha256=sha256_of(folder / GOLDEN))
        replay(folder, replace(config, files={**config.files, GOLDEN: info}))

    return Kind([(folder / GOLDEN).read_bytes()], read)


def _encoder(_: Path) -> Kind:
    from safetensors.torch import save as saved

    def state(*names: str) -> bytes:
        return bytes(saved({name: torch.zeros(1) for name in names}))

    layers = [f"layer{n}.0.conv1.weight" for n in range(1, 5)]
    seeds = [state(*layers), state(*(f"layer{n}.2.conv1.weight" for n in range(1, 5)))]
    seeds.append(state(*layers, "features.running_mean", "layer1.0.prelu.weight"))

    def read(file: Path) -> None:
        from facke_core.weights.pinned import encoder_tensors

        tensors = encoder_tensors(str(file), None)
        for network in (arcface_network, cosface_network):
            try:
                network(tensors)
            except WeightsError:
                continue

    return Kind(seeds, read, ".safetensors")


def _timm(folder: Path) -> Kind:
    try:
        import timm
    except ImportError:
        return Kind([b"{}"], lambda file: None, ".json")
    folder.mkdir()
    given: dict[str, Any] = {
        "img_size": 32,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 1,
        "patch_size": 16,
    }
    model: Any = timm.create_model("vit_tiny_patch16_224", num_classes=4, **given)
    save_file(model.state_dict(), folder / MODEL)
    about: dict[str, Any] = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "num_classes": 4,
    }
    about["first_conv"] = "patch_embed.proj"
    config = {"architecture": "vit_tiny_patch16_224", "model_args": given, "pretrained_cfg": about}

    def read(file: Path) -> None:
        file.replace(folder / CONFIG)
        timm_encoder.build(model=str(folder))

    return Kind([json_text(config).encode()], read)


def _a_row(pair: int, vector: str = "") -> Row:
    return Row(
        pair=pair,
        source=f"{pair}.jpg",
        target="b.jpg",
        source_identity="a",
        target_identity="b",
        values={"psnr": 20.5 + pair, "id-loss": None},
        detected=True,
        vector=vector,
    )


def _report(_: Path) -> Kind:
    report = EvaluationReport(
        name="simswap.mini",
        protocol={"pairs": {"n": 3}, "backend": "torch", "dtype": "float32", "seed": 0},
        metrics={
            "psnr": MetricInfo(unit="dB", higher_is_better=True),
            "id-loss": MetricInfo(higher_is_better=False),
        },
        summary={
            "psnr": Estimate(value=21.5, low=20.0, high=23.0, n=3),
            "id-loss": Estimate(value=None, n=0, missing=3),
        },
        undetected=0,
        skipped={"no face": 1},
        left_out={"fid": "too few"},
        calibration={"dlib": {"auc": 0.9, "same": 3, "different": 4, "undetected": 1}},
        rows=[_a_row(n) for n in range(3)],
        environment={"torch": "2"},
        run={"seconds": {"swap": 1.5}},
    )

    def read(file: Path) -> None:
        reports = read_reports(file)
        [str(each) for each in diff(reports, [report])]
        page(reports)
        json.dumps(document(reports), allow_nan=False).encode()

    return Kind([json_text(document([report])).encode()], read, ".json")


def _rows(folder: Path) -> Kind:
    run = {"pairs": 3, "seed": 0}
    files = RowFiles(folder, run, resume=False)
    rows = [_a_row(n, pack(np.ones(4, np.float32)) if n else "") for n in range(3)]
    files.write(range(3), rows)
    (name,) = folder.glob("rows-*")

    def read(file: Path) -> None:
        read_rows(file)

    return Kind([name.read_bytes()], read)


def _swaps(_: Path) -> Kind:
    swaps = [asdict(Swap(pair=n, source="a.jpg", target="b.jpg", faces=1, seed=5)) for n in (0, 1)]

    def read(file: Path) -> None:
        read_swaps(file)

    return Kind([json_text({"swaps": swaps}).encode()], read)


def _recipe(folder: Path) -> Kind:
    registry = default_registry()
    names = ("simswap-mini", "cvae-gan-c", "ddpm-mini")
    seeds = [json_text(to_dict(read_recipe(name, (), registry))).encode() for name in names]
    seeds.append(b'{"base": "simswap-mini", "steps": 3, "optimizer": {"lr": 1e-4}}')

    def read(file: Path) -> None:
        recipe = read_recipe(str(file), (), registry)
        from_dict(Alignment, recipe.alignment, where="alignment")
        config = WeightsConfig(
            method=recipe.method, generator=recipe.generator, alignment=recipe.alignment
        )
        if file.stat().st_size % 4 == 0:  # as large as an honest one
            build_method(config, registry=registry)
        for chosen in (recipe.loss, recipe.discriminator_loss):
            try:
                terms(chosen)
            except FackeError as error:
                str(error)
        _encoder_of(recipe.identity_encoder)

    return Kind(seeds, read, ".json")


def _state(folder: Path) -> Kind:
    folder.mkdir()
    save_file({"weight": torch.ones(2)}, folder / "ema.safetensors")
    recipe = to_dict(read_recipe("simswap-mini", (), default_registry()))
    best = {"step": 1, "score": 0.5, "retrieval": 0.2, "reconstruction": 0.3, "checkpoint": "c/1"}
    files = {"ema.safetensors": sha256_of(folder / "ema.safetensors")}
    state = {"step": 3, "recipe": recipe, "best": best, "begun with": "", "files": files}

    def read(file: Path) -> None:
        file.replace(folder / STATE)
        found = read_checkpoint(folder).state
        dict(found.get("best", {}))["score"] if found.get("best") else None

    return Kind([json_text(state).encode()], read)


def _crops(n: int = 6, size: int = 16) -> CropSet:
    return CropSet(
        images=torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8),
        mesh=torch.rand(n, SIZE, 2),
        embeddings=nn.functional.normalize(torch.randn(n, 2, 8), dim=-1),
        people=torch.arange(n) // 2,
        weights=torch.rand(n) + 0.1,
        info={
            "name": "tiny",
            "people": ["a", "b", "c"],
            "alignment": {"template": "ffhq", "size": size},
            "identity_encoder": {"name": "dlib-resnet29"},
            "sources": {"x": 6},
        },
    )


def _used(crops: CropSet) -> None:
    from facke_core.data.batches import BatchConfig, SwapBatches

    batches = SwapBatches(crops, batch_size=2, config=BatchConfig(composite=0.5, donors=2), seed=0)
    batches.read(0)


def _dataset(folder: Path) -> Kind:
    _crops().save(folder)
    info = folder / "dataset.json"

    def read(file: Path) -> None:
        file.replace(info)
        _info(folder)
        CropSet.load(folder)

    return Kind([info.read_bytes()], read)


def _tables(folder: Path) -> Kind:
    _crops().save(folder)
    whole = {name: (folder / name).read_bytes() for name in (INDEX, IDENTITY)}

    def read(file: Path) -> None:
        content = file.read_bytes()
        for name, honest in whole.items():
            damaged = content if (b"embeddings" in content[:400]) == (name == IDENTITY) else honest
            (folder / name).write_bytes(damaged)
        known = KnownCrops("", "", with_mesh=True)
        known.add_dataset(folder / INDEX, folder / IDENTITY)
        _used(CropSet.load(folder))

    return Kind(list(whole.values()), read)


def _shard(folder: Path, suffix: str) -> Kind:
    folder.mkdir()
    keys = [bytes([0, n] * 16) for n in range(3)]
    images = list(_crops(3).images[:])
    path = folder / f"crops-0{suffix}"
    write_shard(path, keys, images, size=16, preparation="p")

    def read(file: Path) -> None:
        file.replace(path)
        known = KnownCrops("p", "", with_mesh=False)
        known.add_shard(path)
        for key in keys:
            if known.has_crop(key):
                known.crop(key)

    return Kind([path.read_bytes()], read, suffix)


def _pairs(folder: Path) -> Kind:
    def read(file: Path) -> None:
        for reader in (read_pairs, read_same):
            try:
                reader(file)
            except FackeError as error:
                str(error)

    return Kind(
        [b"source,target,source_identity\na.jpg,b.jpg,x\nb.jpg,a.jpg,\n", b"a,b,same\nx,y,1\n"],
        read,
    )


def _manifest(folder: Path) -> Kind:
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "1.jpg").write_bytes(b"x")

    def read(file: Path) -> None:
        from facke_core.prepare.photos import file_keys

        album = find_photos(folder, file)[""]
        paths = [picture.path for picture in album.pictures][:50]
        file_keys(folder, paths, workers=1, on_file=lambda: None)

    return Kind([b"path,identity,mono,source\na/1.jpg,bob,0,x\na/2.jpg,eve,1,\n"], read)


def _log(_: Path) -> Kind:
    from facke_core.training.logs import _keep_lines

    lines = [json.dumps({"step": n, "images": n, "generator.id": 0.5 / (n + 1)}) for n in range(9)]

    def read(file: Path) -> None:
        curves = read_curves(file.read_bytes())
        plot(curves)
        table_rows(curves)
        _keep_lines(file, 4)

    return Kind(["\n".join(lines).encode()], read)


def _xmp(_: Path) -> Kind:
    packet = disclosure(SwapRequest(method="simswap", weights="w", revision="r", seed=1))
    nested = b"<x><rdf:li xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/></x>"
    listed = packet.replace(b"<rdf:Description", b"<!-- x --><rdf:Description")

    def read(file: Path) -> None:
        picture = PIL.Image.new("RGB", (2, 2))
        path = file.parent / "with.png"
        info = PIL.PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", file.read_bytes().decode("utf-8", "replace"))
        picture.save(path, pnginfo=info)
        read_disclosure(path)

    return Kind([packet, listed, nested], read)


def _pickle(_: Path) -> Kind:
    state = {"layer1.0.conv1.weight": torch.zeros(2, 3), "down1.0.weight": torch.ones(4)}
    values: list[Any] = [
        state,
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        {"time_embed.0.weight": torch.zeros(4, 4), "input_blocks.0.0.weight": torch.zeros(4)},
        {f"layer{n}.0.{name}": torch.zeros(2) for n in (1, 2, 3, 4) for name in ("bn0.weight",)}
        | {f"layer{n}.0.conv1.weight": torch.zeros(2) for n in (1, 2, 3, 4)}
        | {"bn3.weight": torch.zeros(2)},
    ]
    seeds = []
    for value in values:
        for new in (True, False):
            stream = io.BytesIO()
            torch.save(value, stream, _use_new_zipfile_serialization=new)
            seeds.append(stream.getvalue())

    def read(file: Path) -> None:
        checkpoint, _ = _read(file, None)
        _recognised(checkpoint, "auto", default_registry())

    return Kind(seeds, read, ".pth")


def _graph(_: Path) -> Kind:
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        return Kind([b"x"], lambda file: None)
    weight = helper.make_tensor("w", TensorProto.FLOAT, (4, 3, 3, 3), [0.5] * 108)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], strides=[1, 1]),
        helper.make_node("PRelu", ["y", "w"], ["z"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xz"]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]))

    def read(file: Path) -> None:
        checkpoint, _ = _read(file, None)
        _recognised(checkpoint, "auto", default_registry())

    return Kind([onnx.ModelProto.SerializeToString(model)], read, ".onnx")


def _picture(_: Path) -> Kind:
    image = PIL.Image.fromarray(smooth())
    seeds = [
        encoded(image, "PNG"),
        encoded(image.convert("P"), "PNG", transparency=0),
        encoded(image.convert("L"), "PNG"),
        encoded(image, "JPEG", quality=90),
        encoded(image, "JPEG", progressive=True, exif=_exif()),
        encoded(image.convert("CMYK"), "JPEG"),
        encoded(image, "WEBP"),
        encoded(image, "TIFF"),
        encoded(image, "TIFF", compression="tiff_lzw"),
        encoded(image, "GIF"),
        encoded(image, "BMP"),
    ]

    def read(file: Path) -> None:
        read_image(file)
        read_disclosure(file)

    return Kind(seeds, read)


def _exif() -> bytes:
    data = PIL.Image.Exif()
    data[0x0112] = 6
    return b"Exif\0\0" + data.tobytes()


_KINDS: dict[str, Callable[[Path], Kind]] = {
    "config": _config,
    "weights": _weights,
    "golden": _golden,
    "encoder": _encoder,
    "timm": _timm,
    "report": _report,
    "rows": _rows,
    "swaps": _swaps,
    "recipe": _recipe,
    "state": _state,
    "dataset": _dataset,
    "tables": _tables,
    "shard": partial(_shard, suffix=".safetensors"),
    "tar": partial(_shard, suffix=".tar"),
    "pairs": _pairs,
    "manifest": _manifest,
    "log": _log,
    "xmp": _xmp,
    "pickle": _pickle,
    "graph": _graph,
    "picture": _picture,
}
NAMES = tuple(_KINDS)
