"""Generators computed by other runtimes: the same results, the same interface, plain refusals."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from facke_core.backends import choice, graphs, rewrites, runtimes
from facke_core.backends.choice import BOUND, Choice, Measured, choose, measure, with_backend
from facke_core.backends.graphs import cached_graph, max_error, probe_inputs, run_torch
from facke_core.backends.runtimes import GraphGenerator, OnnxRuntimeSession, OpenVinoSession
from facke_core.errors import CompatibilityError, UnavailableError, UsageError
from facke_core.protocols import Generator
from facke_diffusion.ddpm import DDPMConfig, DDPMGenerator
from facke_gan.simswap import SimSwapConfig, SimSwapGenerator
from facke_vae.cvae import CVAEConfig, CVAEGenerator
from standins import FunctionGenerator

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "image_size": 32,
    "identity_dim": 16,
    "channels": (16, 32),
    "num_id_blocks": 2,
    "stem_kernel": 3,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests here: exporting takes seconds."""
    folder = tmp_path_factory.getbasetemp() / "backends-cache"
    monkeypatch.setenv("FACKE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _needs_onnx() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These networks are too small for more, which then wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def simswap(**changes: Any) -> SimSwapGenerator:
    torch.manual_seed(0)
    return SimSwapGenerator(SimSwapConfig(**{**SMALL, **changes})).eval().requires_grad_(False)


def veiled() -> SimSwapGenerator:
    """As simswap.mini is made."""
    generator = simswap(veil=0.05, output="residual", patch=2, skips=1)
    nn.init.normal_(generator.head[0].weight, std=0.1)  # type: ignore[arg-type]
    return generator


def ddpm() -> DDPMGenerator:
    torch.manual_seed(0)
    config = DDPMConfig(
        image_size=16,
        model_channels=32,
        channel_mult=(1.0,),
        attention_resolutions=(),
        num_head_channels=32,
        timesteps=100,
    )
    generator = DDPMGenerator(config).eval().requires_grad_(False)
    nn.init.normal_(generator.out[2].weight, std=0.02)  # type: ignore[arg-type]
    return generator


def moody(show: bool) -> FunctionGenerator:
    """A generator that no graph knows: it takes a condition of its own, and may ``show`` it."""
    generator: Any = FunctionGenerator(
        lambda x, mood: x / 2 + mood[..., None, None], 8, conditions=["mood"]
    )
    generator.share = nn.Parameter(torch.tensor(0.5))
    if show:
        generator.example_inputs = lambda x, *, rng: {"mood": torch.rand(len(x), 3, generator=rng)}
    return generator


# Graphs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("session", [OnnxRuntimeSession, OpenVinoSession])
def test_a_graph_computes_what_torch_does_for_any_batch(session: Any, batch: int) -> None:
    if session is OpenVinoSession:
        pytest.importorskip("openvino")
    generator = veiled()
    computed = GraphGenerator(generator, session(cached_graph(generator)))
    inputs = probe_inputs(generator, batch, seed=5)
    expected = run_torch(generator, inputs)
    assert max_error(run_torch(computed, inputs), expected) < 1e-5
    assert expected["image"].std() > 0.05


@pytest.mark.parametrize("session", [OnnxRuntimeSession, OpenVinoSession])
def test_threads_do_not_get_the_pictures_of_each_other(session: Any) -> None:
    if session is OpenVinoSession:
        pytest.importorskip("openvino")
    generator = veiled()
    computed = GraphGenerator(generator, session(cached_graph(generator)))
    several = [probe_inputs(generator, 1, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda inputs: run_torch(computed, inputs), several))
    for inputs, outputs in zip(several, found, strict=True):
        assert max_error(outputs, run_torch(generator, inputs)) < 1e-5


def test_a_diffusion_step_is_computed_with_all_that_samplers_read() -> None:
    generator = ddpm()
    computed = GraphGenerator(generator, OnnxRuntimeSession(cached_graph(generator)))
    inputs = probe_inputs(generator, 3)
    found, expected = run_torch(computed, inputs), run_torch(generator, inputs)
    assert found.keys() == expected.keys() >= {"x0", "eps", "variance"}
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 1e-4 * max(1.0, float(value.abs().max()))
    assert torch.equal(computed.schedule.betas, generator.schedule.betas)


def test_what_the_graph_has_no_input_for_is_computed_by_torch() -> None:
    torch.manual_seed(0)
    generator = CVAEGenerator(CVAEConfig(**SMALL)).eval().requires_grad_(False)
    computed = GraphGenerator(generator, OnnxRuntimeSession(cached_graph(generator)))
    inputs = probe_inputs(generator, 2)
    eps = computed.noise(inputs["x"], torch.Generator().manual_seed(1))
    drawn = computed(**inputs, eps=eps).image
    assert torch.equal(drawn, generator(**inputs, eps=eps).image)
    assert not torch.allclose(drawn, computed(**inputs, eps=None).image)
    large = torch.rand(1, 3, 64, 64)
    assert computed(large, identity=inputs["identity"][:1]).image.shape == large.shape


def test_a_graph_is_exported_once_and_again_when_a_weight_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = simswap()
    first = cached_graph(generator)
    written: list[Path] = []
    monkeypatch.setattr(graphs, "write_graph", lambda generator, path: written.append(path))
    assert cached_graph(simswap()) == first
    assert written == []
    generator.head[0].bias.add_(0.1)  # type: ignore[operator]
    assert cached_graph(generator) == written[0] != first


def test_instance_norm_is_one_operation_on_what_the_convolution_makes() -> None:
    graph = pytest.importorskip("onnx").load(cached_graph(simswap())).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
    assert [makers[node.input[0]] for node in norms] == ["Conv"] * 4  # two ID blocks
    readers = [n.op_type for n in graph.node if {*n.input} & {one.output[0] for one in norms}]
    assert readers == ["Mul"] * 4


def test_the_tensors_of_a_graph_too_large_for_one_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(graphs, "ONE_FILE", 1)
    generator = simswap()
    with graphs.writing(tmp_path / "g.onnx") as temporary:  # as `facke weights export` does
        graphs.write_graph(generator, temporary)
    graph, tensors = sorted(path.name for path in tmp_path.iterdir())
    assert (graph, tensors[:7], tensors[-5:]) == ("g.onnx", "g.onnx.", ".data")
    inputs = probe_inputs(generator, 2)
    found = OnnxRuntimeSession(tmp_path / "g.onnx").run(inputs)
    assert max_error(found, run_torch(generator, inputs)) < 1e-4


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with graphs.writing(tmp_path / "g.onnx") as temporary:
            temporary.write_bytes(b"half")
            raise CompatibilityError("no")

    with pytest.raises(CompatibilityError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_unknown_conditions_are_refused() -> None:
    with pytest.raises(CompatibilityError, match="'mood'"):
        with_backend(moody(show=False), "onnxruntime", device=CPU)


def test_a_condition_of_a_plugin_can_be_exported_if_it_is_shown() -> None:
    plain = moody(show=True)
    generator, _ = with_backend(plain, "onnxruntime", device=CPU)
    inputs = probe_inputs(plain, 3, seed=1)
    assert {name: tuple(one.shape) for name, one in inputs.items()} == {
        "x": (3, 3, 8, 8),
        "mood": (3, 3),
    }
    assert isinstance(generator, GraphGenerator)
    assert max_error(run_torch(generator, inputs), run_torch(plain, inputs)) < 1e-6
    other = {**inputs, "mood": torch.zeros(3, 3)}
    assert max_error(run_torch(generator, other), run_torch(plain, other)) < 1e-6
    assert max_error(run_torch(generator, other), run_torch(generator, inputs)) > 0.1


# Generators


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_computed_generator_is_a_generator(backend: str) -> None:
    pytest.importorskip(backend)
    generator, chosen = with_backend(simswap(), backend, device=CPU)
    assert isinstance(generator, Generator)
    assert generator.spec == simswap().spec
    assert str(chosen) == f"{backend} float32"


def test_openvino_in_bfloat16_is_near_and_says_so() -> None:
    pytest.importorskip("openvino")
    # a depthwise convolution, which OpenVINO 2026.4 never finishes in bfloat16
    plain = veiled()
    generator, chosen = with_backend(plain, "openvino", device=CPU, dtype=torch.bfloat16)
    inputs = probe_inputs(plain, 2)
    error = max_error(run_torch(generator, inputs), run_torch(plain, inputs))
    assert error < 0.05
    assert str(chosen) == "openvino bfloat16"


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "words"),
    [
        ("tensorrt", "cpu", None, "'tensorrt' does not exist"),
        ("onnxruntime", "cpu", torch.bfloat16, "does not compute in bfloat16"),
        ("openvino", "cuda:0", None, "on a CPU only"),
    ],
)
def test_what_cannot_be_is_refused(
    backend: str, device: str, dtype: torch.dtype | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        with_backend(simswap(), backend, device=torch.device(device), dtype=dtype)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(UnavailableError, match=r'pip install "facke-core\[openvino\]"') as caught:
        OpenVinoSession(Path("none.onnx"))
    assert caught.value.exit_code == 4


def test_openvino_is_asked_for_float32_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    telemetry = pytest.importorskip("openvino_telemetry")

    def phone_home(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("telemetry was started")

    monkeypatch.setattr(telemetry.Telemetry, "init", phone_home)
    generator = simswap()
    session = OpenVinoSession(cached_graph(generator))
    inputs = probe_inputs(generator, 1)
    # bfloat16, which OpenVINO takes by itself on some processors, is 100 times worse
    assert max_error(session.run(inputs), run_torch(generator, inputs)) < 1e-5


SIGNALLED = """
import faulthandler, os, signal, sys
from pathlib import Path
from facke_core.backends.runtimes import OpenVinoSession

faulthandler.enable()  # with an alternate signal stack
first, second = (OpenVinoSession(Path(sys.argv[1])) for _ in range(2))
del first
del second
signal.signal(signal.SIGUSR1, lambda number, frame: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_signals_are_handled_when_sessions_are_gone() -> None:
    pytest.importorskip("openvino")
    graph = cached_graph(simswap())
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(graph)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


# The choice


def rows(*found: tuple[str, str, float, float]) -> tuple[Measured, ...]:
    return tuple(
        Measured(backend=backend, dtype=dtype, seconds=seconds, max_error=error)
        for backend, dtype, seconds, error in found
    )


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SimpleNamespace:
    """Replaces the measurement by its ``rows``; counts how often it is asked for."""
    monkeypatch.setenv("FACKE_CACHE", str(tmp_path))
    fake = SimpleNamespace(rows=rows(("torch", "float32", 3.0, 0.0)), calls=0)

    def measure(*args: Any) -> tuple[Measured, ...]:
        fake.calls += 1
        found: tuple[Measured, ...] = fake.rows
        return found

    monkeypatch.setattr(choice, "measure", measure)
    return fake


def test_auto_takes_the_fastest_within_the_bound(measured: SimpleNamespace) -> None:
    measured.rows = rows(
        ("torch", "float32", 3.0, 0.0),
        ("torch", "bfloat16", 0.1, 1.01 * BOUND),
        ("onnxruntime", "float32", 1.0, 1e-6),
        ("openvino", "bfloat16", 0.5, 0.99 * BOUND),
    )
    chosen = choose(simswap(), CPU)
    assert str(chosen) == "openvino bfloat16"
    assert chosen.ratio == 6
    assert str(choose(simswap(), CPU, torch.float32)) == "onnxruntime float32"


def test_auto_falls_back_to_torch_where_nothing_else_holds(measured: SimpleNamespace) -> None:
    measured.rows += rows(("openvino", "bfloat16", 0.5, float("inf")))
    assert str(choose(simswap(), CPU)) == "torch float32"


def test_auto_measures_once_per_network(measured: SimpleNamespace, tmp_path: Path) -> None:
    assert choose(simswap(), CPU).fresh
    again = choose(simswap(), CPU)
    assert not again.fresh
    assert again.measured == measured.rows
    assert measured.calls == 1
    choose(veiled(), CPU)
    assert measured.calls == 2
    for file in (tmp_path / "backends").iterdir():
        file.write_text(json.dumps({"measured": [{"backend": 1}]}))
    assert choose(simswap(), CPU).fresh, "damaged: measured again"


def test_measuring_compares_every_way_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [
        Choice(backend=backend, dtype=dtype)
        for backend, dtype in (
            ("torch", "float32"),
            ("torch", "bfloat16"),
            ("onnxruntime", "float32"),
        )
    ]
    monkeypatch.setattr(choice, "candidates", lambda device: ways)
    generator = simswap()
    reference, low, ort = measure(generator, CPU, rounds=2, probes=1)
    assert reference.max_error == 0
    assert 1e-4 < low.max_error < 0.1
    assert ort.max_error < 1e-5
    assert min(one.seconds for one in (reference, low, ort)) > 0
    assert next(generator.parameters()).dtype == torch.float32, "the generator is left alone"


def test_a_way_that_breaks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Path) -> None:
        raise RuntimeError("no such instruction")

    ways = [Choice(backend=name, dtype="float32") for name in ("torch", "onnxruntime")]
    monkeypatch.setattr(choice, "candidates", lambda device: ways)
    monkeypatch.setattr(choice, "OnnxRuntimeSession", broken)
    assert [one.backend for one in measure(simswap(), CPU, rounds=1, probes=1)] == ["torch"]


def test_generators_that_are_no_torch_modules_stay_as_they_are() -> None:
    plain = SimpleNamespace(spec=simswap().spec)
    assert with_backend(plain, "auto", device=CPU)[0] is plain
    with pytest.raises(UsageError, match="no torch module"):
        with_backend(plain, "openvino", device=CPU)


def test_the_first_convolution_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    generator = simswap()
    graph, inputs = cached_graph(generator), probe_inputs(generator, 2)
    reference = run_torch(generator, inputs)
    errors = []
    for exact in (0, 100):
        monkeypatch.setattr(runtimes, "EXACT", exact)
        errors.append(max_error(OpenVinoSession(graph, torch.bfloat16).run(inputs), reference))
    assert errors[0] > errors[1]


def test_winograd_is_about_as_exact_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    generator = simswap(channels=(16, 512), num_id_blocks=2)
    inputs = probe_inputs(generator, 4)
    expected = run_torch(generator, inputs)["image"]
    rewritten: list[int] = []
    errors: list[float] = []
    winograd = rewrites.winograd

    def counting(model: Any) -> int:
        rewritten.append(winograd(model))
        return rewritten[-1]

    monkeypatch.setattr(rewrites, "winograd", counting)
    for least in (512, 513):
        monkeypatch.setattr(rewrites, "MIN_CHANNELS", least)
        session = OpenVinoSession(cached_graph(generator), torch.bfloat16)
        errors.append(float((session.run(inputs)["image"] - expected).square().mean().sqrt()))
    assert rewritten == [4, 0]
    assert 0 < errors[1] < 0.01
    assert errors[0] < 1.5 * errors[1]


def test_bfloat16_is_for_products_but_the_first_and_what_leads_to_them() -> None:
    kinds = {
        "x": "Parameter",
        "before all": "Multiply",
        "first": "Convolution",
        "activation": "Relu",
        "second": "Convolution",
        "of the identity": "MatMul",
        "depthwise": "GroupConvolution",
        f"{rewrites.LOW}tiles": "Gather",
        "sums": "Add",
        "image": "Result",
    }
    layers = [ET.Element("layer", {"name": name, "type": kind}) for name, kind in kinds.items()]
    exact = [one.attrib["name"] for one in runtimes._exact(layers)]
    assert exact == ["before all", "first", "activation", "depthwise", "sums"]
