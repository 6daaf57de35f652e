"""Turn a finished run into the folder of weights that a plugin ships.

    python tools/bundle_weights.py RUN DEST --evaluation FILE.json --command "facke train ..."

Writes config.json, model.safetensors (float16), golden tensors, the logs and their plot,
evaluation.json (without the rows, which would be larger than the weights) and the model card of the
run's newest checkpoint; with --size for crops of another size than those that it was trained on. A
DATA.md that lies in DEST already (sources and licences of the pictures) is linked from the card.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from facke_core import default_registry, load, save
from facke_core.building import build_method
from facke_core.evaluation.report import document, read_reports, write_reports
from facke_core.publish._curves import curves_beside, write_logs
from facke_core.publish.card import model_card
from facke_core.weights.checkpoints import complete
from facke_core.weights.layout import CARD, EVALUATION, LOG, read_weights_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("dest", type=Path)
    parser.add_argument("--evaluation", type=Path, help="what facke evaluate --json wrote")
    parser.add_argument("--command", default="", help="the command that made the run")
    parser.add_argument("--hardware", default="")
    parser.add_argument("--note", default="", help="what else there is to know of the training")
    parser.add_argument("--license", default="Apache-2.0", help="SPDX, of the weights")
    parser.add_argument(
        "--earlier", type=Path, nargs="*", default=[], help="logs of the runs it began with"
    )
    parser.add_argument("--size", type=int, help="image_size of the generator, and of crops")
    args = parser.parse_args()

    newest = complete(args.run)[-1]
    config = read_weights_config(newest)
    training = dict(config.training)
    training.pop("begun with", "")
    extra = {"command": args.command, "hardware": args.hardware, "note": args.note}
    training |= {key: value for key, value in extra.items() if value}
    if (args.dest / "DATA.md").is_file():
        training["sources and licences of the pictures"] = "[DATA.md](DATA.md)"
    logs = {f"log-{n}.jsonl": log for n, log in enumerate(args.earlier, 1)}
    logs[LOG] = args.run / LOG
    texts = {name: log.read_bytes() for name, log in logs.items()}
    for old in args.dest.glob("log*"):
        old.unlink()
    training["logs"] = write_logs(args.dest, texts)
    config = replace(config, license=args.license, training=training)
    method = load(newest).method
    if args.size:
        config = replace(
            config,
            generator={**config.generator, "image_size": args.size},
            alignment={**(config.alignment or {}), "size": args.size},
        )
        trained = cast(nn.Module, method.generator)
        method = build_method(config, registry=default_registry())
        cast(nn.Module, method.generator).eval().load_state_dict(trained.state_dict())
    written = save(method, args.dest, config, dtype=torch.float16, overwrite=True)
    evaluation = None
    if args.evaluation:
        reports = [replace(report, rows=()) for report in read_reports(args.evaluation)]
        write_reports(args.dest / EVALUATION, reports)
        evaluation = document(reports)
    curves = curves_beside(args.dest, written)
    card = model_card(written, evaluation, curves=curves, folder=args.dest.name)
    (args.dest / CARD).write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
