"""``facke weights export``, and swaps by an exported graph."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from facke_cli.main import main
from facke_core import load
from facke_core.backends import graphs
from facke_core.backends.graphs import probe_inputs, write_graph
from facke_core.backends.runtimes import OnnxRuntimeSession, OpenVinoSession
from facke_core.building import build_method
from facke_core.errors import UsageError, VerificationError
from facke_core.plugins.registry import default_registry
from facke_core.publish import export as exporting
from facke_core.publish.export import export
from facke_core.publish.save import save
from facke_core.weights.layout import WeightsConfig

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")

CONFIG = WeightsConfig(
    method="simswap",
    generator={
        "image_size": 32,
        "identity_dim": 128,
        "channels": [16, 32],
        "num_id_blocks": 1,
        "stem_kernel": 3,
    },
    identity_encoder={"name": "dlib-resnet29"},
    alignment={"template": "simswap_frontal", "size": 32},
    license="Apache-2.0",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny SimSwap."""
    where = tmp_path_factory.mktemp("weights") / "tiny"
    torch.manual_seed(0)
    save(build_method(CONFIG, registry=default_registry()), where, CONFIG)
    return where


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path_factory.getbasetemp() / "export-cache"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The network is too small for more, which then wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def exported_before(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exporting, which takes seconds, copies what was exported once."""
    graph = tmp_path_factory.getbasetemp() / "exported.onnx"
    if not graph.exists():
        generator: Any = load(folder).method.generator
        write_graph(generator, graph)

    def copy(generator: object, path: Path, **settings: object) -> None:
        shutil.copy(graph, path)

    monkeypatch.setattr(exporting, "write_graph", copy)


def faces(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1)


def test_a_graph_is_written_that_others_can_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tiny.onnx"
    assert main(["weights", "export", str(folder), "-o", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert max(report["max_error"].values()) < 1e-5
    assert report["bytes"] == out.stat().st_size
    assert sorted(tmp_path.iterdir()) == [out]

    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert [one.version for one in model.opset_import if not one.domain] == [report["opset"]]
    about = {one.key: one.value for one in model.metadata_props}
    source = load(folder).source
    assert source is not None
    assert about["facke.weights_sha256"] == source.config.files["model.safetensors"].sha256
    assert about["facke.license"] == "Apache-2.0"
    assert json.loads(about["facke.contract"])["alignment"]["template"] == "simswap_frontal"

    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    x, identity = faces(5), torch.eye(128)[:5]
    (image,) = session.run(None, {"x": x.numpy(), "identity": identity.numpy()})
    expected = load(folder).method.generator(x, identity=identity).image
    assert abs(image - expected.numpy()).max() < 1e-5


def test_a_file_that_is_there_is_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.onnx"
    out.write_text("mine")
    assert main(["weights", "export", str(folder), "-o", str(out)]) == 2
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    "more", [["-o", "graph.bin"], ["--calibrate", "."], ["--opset", "3", "-o", "new.onnx"]]
)
def test_wrong_options_are_refused_and_leave_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["weights", "export", str(folder), *more]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_before")
@pytest.mark.parametrize("reference", [".", "../mine/"])
def test_a_graph_is_called_like_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str
) -> None:
    shutil.copytree(folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    assert main(["weights", "export", reference]) == 0
    assert (tmp_path / "mine" / "mine.onnx").is_file()


def test_tensors_beside_a_graph_change_with_it_in_one_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any of its changes, a writer leaves the old graph or the new one, which find
    their own tensors; the next writer clears away those of the other."""
    monkeypatch.setattr(graphs, "ONE_FILE", 0)
    place, generator = tmp_path / "place", cast(Any, load(folder)).method.generator
    inputs, moments = probe_inputs(generator, 1), list[Path]()

    def run(where: Path) -> torch.Tensor:
        return OnnxRuntimeSession(where / "g.onnx").run(inputs)["image"]

    def seen(where: Path) -> set[str]:
        return {path.name for path in where.iterdir() if not path.name.startswith(".facke-")}

    def kept(do: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            moments.append(tmp_path / f"{len(moments)}")
            shutil.copytree(place, moments[-1])
            return do(*args, **options)

        return step

    write_graph(generator, place / "g.onnx")
    before, old = seen(place), run(place)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1.2)
    with monkeypatch.context() as patched:
        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink")):
            patched.setattr(owner, name, kept(getattr(owner, name)))
        write_graph(generator, place / "g.onnx")
    after, new = seen(place), run(place)
    assert not torch.equal(old, new)
    assert len(before) == len(after) == 2
    assert before & after == {"g.onnx"}
    found = [run(moment) for moment in moments]
    are_new = [torch.equal(one, new) for one in found]
    assert all(is_new or torch.equal(one, old) for one, is_new in zip(found, are_new, strict=True))
    assert True in are_new
    assert False in are_new
    for moment in moments:
        with graphs.writing(moment / "g.onnx") as part:
            for name in after:
                shutil.copy(place / name, part.with_name(name))
        assert seen(moment) == after
        assert torch.equal(run(moment), new)


@pytest.mark.usefixtures("exported_before")
def test_a_graph_that_differs_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(VerificationError, match="differs from torch"):
        export(load(folder), tmp_path / "g.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("exported_before")
def test_eight_bits_are_kept_only_if_they_are_good_enough(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, out = load(folder), tmp_path / "g8.onnx"
    done = export(pipeline, out, crops=faces(4))
    assert done.int8 is not None
    assert done.int8.fault == ""
    assert done.int8.psnr > 35
    assert abs(done.int8.gain - done.int8.gain_float) < 0.01
    kinds = [node.op_type for node in onnx.load(out).graph.node]
    assert kinds.count("QuantizeLinear") > 0

    monkeypatch.setattr(exporting, "MIN_PSNR", 99.0)
    other = tmp_path / "other.onnx"
    with pytest.raises(VerificationError, match=r"PSNR .* is below 99") as caught:
        export(pipeline, other, crops=faces(4))
    assert caught.value.exit_code == 3
    assert not other.exists()
    kept = export(pipeline, other, crops=faces(4), force=True)
    assert kept.int8 is not None
    assert "PSNR" in kept.int8.fault
    assert other.exists()


@pytest.mark.usefixtures("exported_before")
def test_openvino_computes_eight_bits_in_eight_bits(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export(load(folder), tmp_path / "g8.onnx", crops=faces(4), force=True)
    session = OpenVinoSession(tmp_path / "g8.onnx")
    layers = session._request.get_compiled_model().get_runtime_model().get_ordered_ops()
    found = [{key: value.value for key, value in one.get_rt_info().items()} for one in layers]
    used = [one["runtimePrecision"] for one in found if one["layerType"] == "Convolution"]
    assert {"u8", "i8"} & {*used}


@pytest.mark.usefixtures("exported_before")
def test_one_face_is_too_few_to_calibrate(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 2 faces"):
        export(load(folder), tmp_path / "g.onnx", crops=faces(1))


def test_a_swap_by_onnxruntime_is_the_swap_by_torch(folder: Path) -> None:
    crops = list(faces(2))
    results: dict[str, Any] = {
        backend: load(folder, backend=backend).swap_files(*crops)
        for backend in ("torch", "onnxruntime")
    }
    difference = results["torch"].image - results["onnxruntime"].image
    assert difference.abs().max() < 1e-5
    assert results["onnxruntime"].request.backend == "onnxruntime float32"
    assert results["torch"].request.backend == "torch float32"
