"""Answers of the command line on stdout: tables for people, one JSON document for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import Artifact
    from .serving.client import Prediction


#: Detections of one image that are printed.
PRINTED_ROWS = 20


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
    Console(highlight=False, markup=False).print(table)


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


def print_prediction(prediction: Prediction, labels: Sequence[str] | None = None) -> None:
    from .serving.drawing import segmentation_labels
    from .tasks.segmentation import class_shares
    from .types import Task

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
        print_table(title, ["class", "label", "pixels"], rows)
        return
    if prediction.task is Task.DETECTION:
        found = prediction.detections
        rows = [
            [str(class_id), str(label), f"{score:.6f}", " ".join(f"{side:.1f}" for side in box)]
            for class_id, label, score, box in zip(
                found.labels, outputs["labels"], found.scores, found.boxes, strict=False
            )
        ]
        print_table(title, ["class", "label", "score", "box x1 y1 x2 y2"], rows[:PRINTED_ROWS])
        if len(rows) > PRINTED_ROWS:
            print(f"and {len(rows) - PRINTED_ROWS} more; --json gives all")
        return
    rows = [
        [str(class_id), str(label), f"{score:.6f}"]
        for class_id, label, score in zip(
            outputs["class_ids"], outputs["labels"], outputs["scores"], strict=True
        )
    ]
    print_table(title, ["class", "label", "score"], rows)
