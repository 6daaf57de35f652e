"""What the backends of a generator cost, and how exact they are.

    ./dev python benchmarks/backends.py [--quick] [--winograd] [--json FILE]

The official SimSwap network for 224 pixels with seeded random weights (there are none that may be
passed on), and ``simswap.mini`` as it comes. One face at a time. The ways to compute take turns, so
that other work on the machine disturbs all of them; every turn begins with a run that does not
count, since another way has left the processor's caches to it, and then come three that do.

* ``rows``: ``network``, ``backend``, ``dtype``, ``seconds`` (median), ``ratio`` against torch in
  float32 as it comes, ``max_error`` against the same, where 1 is the range from black to white.
  ``int8`` rows have ``psnr`` in dB, and ``gain`` of ``gain_float``: the identity gain.
* ``auto``: per network what ``--backend auto`` takes, with its ``ratio`` and ``max_error``.
* ``winograd``: with ``--winograd`` only: ``seconds`` and ``max_error`` of ``simswap-224`` in
  OpenVINO's bfloat16, ``with`` and ``without`` that algorithm (docs/adr/0004).
* ``gpu``: with CUDA only: images per second of a batch of 32 in float32, and in bfloat16 with
  channels last; their ``ratio``; and ``peak_share``, of what a large matrix product reaches.
"""

from __future__ import annotations

import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import arguments, write_figures
from torch import nn

from facke_cli.commands.weights_export import crops_of
from facke_core import load
from facke_core.backends import rewrites
from facke_core.backends.choice import BOUND, in_turns, measure
from facke_core.backends.graphs import cached_graph, max_error, probe_inputs, run_torch
from facke_core.backends.runtimes import OnnxRuntimeSession, OpenVinoSession
from facke_core.environment import installed
from facke_core.publish.export import export
from facke_gan.simswap import OFFICIAL_224, SimSwapGenerator

CPU = torch.device("cpu")
GPU_BATCH = 32


def simswap_224() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SimSwapGenerator(OFFICIAL_224).eval().requires_grad_(False)


def of_network(
    name: str, generator: nn.Module, *, rounds: int, probes: int
) -> list[dict[str, Any]]:
    found = measure(generator, CPU, rounds=rounds, probes=probes)
    return [
        {
            "network": name,
            "backend": one.backend,
            "dtype": one.dtype,
            "seconds": round(one.seconds, 4),
            "ratio": round(found[0].seconds / one.seconds, 2),
            "max_error": round(one.max_error, 6),
        }
        for one in found
    ]


def in_8_bits(*, rounds: int) -> list[dict[str, Any]]:
    """simswap.mini, quantised as ``facke weights export --int8`` does."""
    pipeline = load("simswap.mini")
    generator: Any = pipeline.method.generator
    inputs = probe_inputs(generator, 1)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "mini.onnx"
        quality = export(pipeline, graph, crops=crops_of(pipeline, None), force=True).int8
        assert quality is not None
        ways: dict[str, Callable[[], Any]] = {"torch": lambda: run_torch(generator, inputs)}
        for name, session in (("onnxruntime", OnnxRuntimeSession), ("openvino", OpenVinoSession)):
            if installed(name):
                ways[name] = partial(session(graph).run, inputs)
        seconds = in_turns(ways, rounds)
    return [
        {
            "network": "simswap-mini",
            "backend": name,
            "dtype": "int8",
            "seconds": round(seconds[name], 4),
            "ratio": round(seconds["torch"] / seconds[name], 2),
            "max_error": round(quality.max_error, 6),
            "psnr": round(quality.psnr, 2),
            "gain": round(quality.gain, 4),
            "gain_float": round(quality.gain_float, 4),
        }
        for name in ways
        if name != "torch"
    ]


def winograd(*, rounds: int, probes: int) -> dict[str, Any]:
    generator = simswap_224()
    graph, inputs = cached_graph(generator), probe_inputs(generator, probes)
    one_face = {name: value[:1] for name, value in inputs.items()}
    sessions = {"with": OpenVinoSession(graph, torch.bfloat16)}
    with patch.object(rewrites, "MIN_CHANNELS", sys.maxsize):
        sessions["without"] = OpenVinoSession(graph, torch.bfloat16)
    expected = run_torch(generator, inputs)
    seconds = in_turns({k: partial(one.run, one_face) for k, one in sessions.items()}, rounds)
    return {
        "seconds": {k: round(value, 4) for k, value in seconds.items()},
        "ratio": round(seconds["without"] / seconds["with"], 2),
        "max_error": {
            k: round(max_error(one.run(inputs), expected), 6) for k, one in sessions.items()
        },
    }


def choice(rows: list[dict[str, Any]]) -> dict[str, Any]:
    held = [row for row in rows if row["max_error"] <= BOUND and row["dtype"] != "int8"]
    best = min(held, key=lambda row: row["seconds"])
    return {key: best[key] for key in ("backend", "dtype", "ratio", "max_error")}


def on_gpu(rounds: int) -> dict[str, Any]:
    from torch.utils.flop_counter import FlopCounterMode

    device = torch.device("cuda")
    generator = simswap_224().to(device)
    inputs = {k: v.to(device) for k, v in probe_inputs(generator, GPU_BATCH).items()}
    with FlopCounterMode(display=False) as counter:
        run_torch(generator, inputs)
    flops = counter.get_total_flops()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def seconds(run: Callable[[], Any]) -> float:
        def waited() -> None:
            run()
            torch.cuda.synchronize()

        for _ in range(3):
            waited()
        return in_turns({"it": waited}, rounds)["it"]

    plain = seconds(lambda: run_torch(generator, inputs))
    generator.to(torch.bfloat16).to(memory_format=torch.channels_last)
    low = {k: v.bfloat16() for k, v in inputs.items()}
    low["x"] = low["x"].to(memory_format=torch.channels_last)
    fast = seconds(lambda: run_torch(generator, low))
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    peak = 2 * 8192**3 / seconds(lambda: a @ a)
    return {
        "device": torch.cuda.get_device_name(device),
        "batch": GPU_BATCH,
        "float32_images_per_s": round(GPU_BATCH / plain, 1),
        "images_per_s": round(GPU_BATCH / fast, 1),
        "ratio": round(plain / fast, 2),
        "peak_share": round(flops / fast / peak, 3),
    }


def main() -> None:
    parser = arguments(__doc__, quick="fewer repeats")
    parser.add_argument("--winograd", action="store_true", help="also with and without it")
    args = parser.parse_args()

    rounds, probes = (1, 1) if args.quick else (5, 3)
    large = of_network("simswap-224", simswap_224(), rounds=rounds, probes=probes)
    mini: Any = load("simswap.mini").method.generator
    small = of_network("simswap-mini", mini, rounds=3 * rounds, probes=probes)
    auto = {"simswap-224": choice(large), "simswap-mini": choice(small)}
    small += in_8_bits(rounds=3 * rounds) if installed("onnxruntime") else []
    report: dict[str, Any] = {
        "rows": large + small,
        "auto": auto,
        "weights": {"simswap-224": "random, seed 0", "simswap-mini": "as bundled"},
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    print(f"{'network':<13} {'backend':<12} {'dtype':<9} {'seconds':>8} {'ratio':>6} {'error':>9}")
    for row in report["rows"]:
        error = f"{255 * row['max_error']:.3f}/255"
        line = f"{row['network']:<13} {row['backend']:<12} {row['dtype']:<9}"
        print(f"{line} {row['seconds']:8.4f} {row['ratio']:6.2f} {error:>9}", end="")
        if "psnr" in row:
            print(f"  PSNR {row['psnr']:.1f} dB, gain {row['gain']} of {row['gain_float']}", end="")
        print()
    for network, one in auto.items():
        print(f"auto, {network}: {one['backend']} {one['dtype']}, {one['ratio']} times as fast")
    if args.winograd:
        report["winograd"] = winograd(rounds=rounds, probes=probes)
        print(f"winograd: {report['winograd']}")
    if torch.cuda.is_available():
        report["gpu"] = on_gpu(rounds)
        print(f"gpu: {report['gpu']}")
    else:
        print("gpu: none here, its rows are left out", file=sys.stderr)
    write_figures(args.json, report)


if __name__ == "__main__":
    main()
