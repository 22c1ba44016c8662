"""Answers of the command line on stdout: tables for people, one JSON document for machines."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .types import Precision, Task

if TYPE_CHECKING:
    from .artifact import Artifact
    from .checkup import Finding
    from .conversion.convert import Converted
    from .engines.build import Built
    from .evaluate.verdict import LayerComparison, Validation
    from .models.table import ModelRow
    from .serving.client import Prediction
    from .serving.repository import PopulatedModel
    from .walkthrough import QuickstartResult

#: Answers of one image that are printed.
PRINTED_ROWS = 20

#: Columns of a table that no terminal bounds.
PIPED_WIDTH = 200


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2))


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    print(title)
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)


def print_export(artifact: Artifact, *, next_step: bool = True) -> None:
    manifest = artifact.manifest
    before, after = manifest.graph.operators_before, manifest.graph.operators
    rows = [
        [operator, str(before.get(operator, 0)), str(after.get(operator, 0))]
        for operator in sorted(before.keys() | after.keys())
    ]
    rows.append(["all", str(manifest.graph.nodes_before), str(manifest.graph.nodes)])
    print_table(
        f"{manifest.name}: operators, opset {manifest.graph.opset}",
        ["operator", "exported", "simplified"],
        rows,
    )
    for check in manifest.checks:
        print(f"{check.name}: {check.figure:.2g} (limit {check.limit:.0e})")
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in manifest.seconds.items())
    for name, record in manifest.files.items():
        print(f"{artifact.directory / name}: {record.size / 1e6:.1f} MB ({times})")
    if next_step:
        print(
            f"next: dfvt-deploy populate {manifest.name} --exports {artifact.directory.parent}, "
            "then dfvt-deploy serve"
        )


def print_conversion(converted: Converted) -> None:
    from .artifact import ONNX_FILES

    record, manifest = converted.record, converted.artifact.manifest
    precisions = sorted({name for row in record.operators.values() for name in row})
    if "other" in precisions:  # last
        precisions = [*(p for p in precisions if p != "other"), "other"]
    rows = [
        [operator, *(str(row[p]) if p in row else "" for p in precisions)]
        for operator, row in record.operators.items()
    ]
    totals = [sum(row.get(p, 0) for row in record.operators.values()) for p in precisions]
    print_table(
        f"{manifest.name}: nodes by precision (other: no floating-point values)",
        ["operator", *precisions],
        [*rows, ["all", *map(str, totals)]],
    )
    print_table(
        "Why nodes stayed in FP32",
        ["reason", "nodes", "operators"],
        [
            [reason, str(sum(row.values())), ", ".join(f"{n} {name}" for name, n in row.items())]
            for reason, row in record.reasons.items()
        ],
    )
    for check in record.checks:
        print(f"{check.name}: {check.figure:.3g} (limit {check.limit:.3g})")
    before = manifest.files[ONNX_FILES[Precision.FP32]].size
    after = manifest.files[converted.file.name].size
    times = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in record.seconds.items())
    print(f"{converted.file}: {after / 1e6:.1f} MB, {after / before:.0%} of FP32 ({times})")


def print_models(rows: Sequence[ModelRow]) -> None:
    print_table(
        "DFvT models (MACs counted here; the paper's FLOPs are multiply-accumulates)",
        ["model", "input", "params M", "paper", "GMACs", "paper", "published accuracy"],
        [
            [
                row.name,
                f"{row.size[0]}x{row.size[1]}",
                f"{row.parameters_m:.1f}",
                f"{row.published_parameters_m:g}",
                f"{row.gmacs:.3g}",
                f"{row.published_gflops:g}",
                ", ".join(f"{value:g} {label}" for label, value in row.accuracy.items()),
            ]
            for row in rows
        ],
    )
    detectors = [row for row in rows if row.task is Task.DETECTION]
    print_table(
        "GMACs of Mask R-CNN by part (1000 proposals, 100 masks; norms and activations not)",
        ["model", *detectors[0].gmacs_by_part],
        [[row.name, *(f"{g:.1f}" for g in row.gmacs_by_part.values())] for row in detectors],
    )


def print_validation(found: Validation, directory: Path) -> None:
    from .evaluate.report import needed, told

    scored = [found.metric, "drop"] if found.metric else []
    rows = []
    for hop in found.hops:
        scores = []
        if found.metric:
            scores.append(f"{hop.scores[found.metric]:.2f}" if hop.scores else "")
            bound = f" (bound {hop.gate.upper_bound:.2f})" if hop.gate else ""
            scores.append("" if hop.drop is None else f"{hop.drop:.2f}{bound}")
        rows.append(
            [
                hop.name,
                hop.source or "",
                "\n".join(needed(check) for check in told(hop.step_checks)),
                "\n".join(needed(check) for check in told(hop.total_checks)),
                *scores,
                f"{hop.outcome}, guilty" if hop.name == found.guilty else hop.outcome,
            ]
        )
    print_table(
        f"{found.model} on {found.images:,} images of {found.dataset}; found (and allowed)",
        ["hop", "compared with", "this step", "against the reference", *scored, "outcome"],
        rows,
    )
    for left_out in found.not_run:
        print(f"not run: {left_out.name}: {left_out.reason}")
    for image in found.unjudged:
        print(f"not judged: {image.image}, refused by {image.hop}: {image.reason}")
    if found.layers:
        print(_layers_told(found.layers))
    for text in found.notes:
        print(text)
    print(f"report: {directory / found.reports['html']}")
    guilty = f", guilty: {found.guilty}" if found.guilty else ""
    print(f"{found.outcome}{guilty}: {found.reason}")


def _layers_told(layers: LayerComparison) -> str:
    compared = f"{layers.compared} inner tensors of {layers.file}"
    if layers.first is None:
        return f"{compared}: all within {layers.limit:g} of their largest value"
    first = layers.first
    bad = f", {first.non_finite} values not finite" if first.non_finite else ""
    return (
        f"{compared}: the first beyond {layers.limit:g} of its largest value is {first.tensor} "
        f"({first.operator}), max absolute {first.max_abs:.3g}, relative {first.max_rel:.3g}{bad}"
    )


def print_findings(findings: Sequence[Finding]) -> None:
    rows = [
        [
            "ok" if finding.found else "-" if finding.optional else "!!",
            finding.name,
            finding.found or "missing",
            finding.commands,
            finding.fix,
        ]
        for finding in findings
    ]
    print_table("This machine", ["", "what", "found", "for", "what to do"], rows)


def print_populated(populated: Sequence[PopulatedModel], repository: Path) -> None:
    for model in populated:
        print(f"{model.repository}: {model.name} version {model.version}")
    print(f"next: dfvt-deploy serve --repository {repository}")


def print_built(done: Sequence[Built]) -> None:
    rows = []
    for built in done:
        if built.engine is None:
            rows.append([built.model, str(built.precision), "failed", "", "", ""])
            continue
        record = built.engine.record
        counted = record.inspected_layers or record.network_layers
        rows.append(
            [
                built.model,
                str(built.precision),
                record.plan,
                f"{record.size / 1e6:.1f}",
                f"{record.seconds:.1f}",
                f"{counted.count(record.precision)} of {counted.total} ({counted.source})",
            ]
        )
    columns = ["model", "precision", "file", "MB", "seconds", "compute layers in it"]
    print_table("Engines", columns, rows)


def print_urls(urls: Mapping[str, str | list[str]], as_json: bool) -> None:
    if as_json:
        print_json(urls)
    else:
        for what, value in urls.items():
            print(f"{what:8} {value if isinstance(value, str) else ', '.join(value)}")
    sys.stdout.flush()


def print_docker(command: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json({"command": list(command)})
    else:
        print(shlex.join(command))
    sys.stdout.flush()


def print_quickstart(result: QuickstartResult, as_json: bool) -> None:
    manifest = result.artifact.manifest
    if as_json:
        return print_json(
            {
                "manifest": manifest.model_dump(mode="json", exclude={"labels"}),
                "version": result.populated.version,
                "http": result.http.as_json(),
                "grpc": result.grpc.as_json(),
                "seconds": {k: round(v, 3) for k, v in result.seconds.items()},
            }
        )
    print_export(result.artifact, next_step=False)
    rows = [[step, f"{seconds:.2f}"] for step, seconds in result.seconds.items()]
    print_table("Steps", ["step", "seconds"], rows)
    for protocol, answer in (("HTTP", result.http), ("gRPC", result.grpc)):
        print(f"{protocol}, {manifest.name} version {result.populated.version}:")
        print_prediction(answer, manifest.labels)
    print("HTTP and gRPC answer alike.")
    if not manifest.trained:
        print("The weights are untrained: the labels mean nothing. Give --checkpoint.")


def print_prediction(
    prediction: Prediction, labels: Sequence[str] | None = None, saved: str | None = None
) -> None:
    columns, rows, title = _prediction_table(prediction, labels)
    print_table(title, columns, rows[:PRINTED_ROWS])
    if len(rows) > PRINTED_ROWS:
        print(f"and {len(rows) - PRINTED_ROWS} more; --json gives all")
    if saved:
        print(f"saved {saved}")


def _prediction_table(
    prediction: Prediction, labels: Sequence[str] | None
) -> tuple[list[str], list[list[str]], str]:
    from .serving.drawing import segmentation_labels
    from .tasks.segmentation import class_shares

    outputs = prediction.outputs
    title = (
        f"{prediction.image} ({prediction.milliseconds:.1f} ms, "
        f"{prediction.bytes_sent:,} bytes sent, {prediction.bytes_received:,} received)"
    )
    if prediction.task is Task.SEGMENTATION:
        names = segmentation_labels(prediction, labels)
        rows = [
            [str(class_id), names[class_id], f"{share:.2%}"]
            for class_id, share in class_shares(prediction.class_map)
        ]
        return ["class", "label", "pixels"], rows, title
    if prediction.task is Task.DETECTION:
        found = prediction.detections
        rows = [
            [str(class_id), str(label), f"{score:.6f}", " ".join(f"{side:.1f}" for side in box)]
            for class_id, label, score, box in zip(
                found.labels, outputs["labels"], found.scores, found.boxes, strict=False
            )
        ]
        return ["class", "label", "score", "box x1 y1 x2 y2"], rows, title
    rows = [
        [str(class_id), str(label), f"{score:.6f}"]
        for class_id, label, score in zip(
            outputs["class_ids"], outputs["labels"], outputs["scores"], strict=True
        )
    ]
    return ["class", "label", "score"], rows, title
