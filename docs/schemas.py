"""The JSON schema of every command's `--json`, made from the types that the commands print.

    python docs/schemas.py          # writes docs/schemas/COMMAND.schema.json

Where an object has named fields, all of them are there, but for those in `OPTIONAL`, and no others.
"""

import dataclasses
import json
import typing
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, create_model
from typing_extensions import TypedDict

from dfvt_deploy.batches.plan import BatchRecord
from dfvt_deploy.benchmarking.results import Bench
from dfvt_deploy.capacity.planning import Plan
from dfvt_deploy.engines.record import EngineRecord
from dfvt_deploy.evaluate.results import Validation
from dfvt_deploy.explaining.explain import Explanation
from dfvt_deploy.explaining.heat_maps import Faithfulness
from dfvt_deploy.linting.rules import Finding as LintFinding
from dfvt_deploy.linting.rules import Severity
from dfvt_deploy.manifest import ConversionRecord, FileRecord, Manifest, Tuning
from dfvt_deploy.models.build import ModelRow
from dfvt_deploy.promotion.live_versions import VersionRow
from dfvt_deploy.serving.client import Prediction
from dfvt_deploy.serving.history import Change
from dfvt_deploy.serving.repository import PopulatedModel
from dfvt_deploy.serving.tasks import Answer, served_task
from dfvt_deploy.start.doctor import Finding
from dfvt_deploy.types import Precision, Task

FOLDER = Path(__file__).parent / "schemas"

#: A picture is there only where one was asked for.
OPTIONAL = {"saved"}

#: Commands whose figures become null where they are not finite.
NULL_FIGURES = {"bench", "validate"}

KINDS = {"int32": int, "float32": float, "string": str, "bytes": str}


def _object(name: str, fields: dict[str, Any], base: type | None = None) -> Any:
    """The fields of a dataclass, and further ones in their place or after them."""
    hints = typing.get_type_hints(base) if base else {}
    kept = {f.name: hints[f.name] for f in dataclasses.fields(base)} if base else {}
    return TypedDict(name, {k: v for k, v in {**kept, **fields}.items() if v is not None})


def _record(name: str, base: type, fields: dict[str, Any]) -> Any:
    return create_model(name, __base__=base, **{k: (v, ...) for k, v in fields.items()})


def _answer(answer: Answer) -> Any:
    hint: Any = KINDS[answer.dtype]
    for _ in answer.shape[1:] if answer.dtype != "bytes" else ():  # one file, as base64
        hint = list[hint]
    return hint


def printed() -> dict[str, Any]:
    """The type of the document that each command prints."""
    answers = [
        _object(f"{task.title()}Answers", {a.name: _answer(a) for a in served_task(task).answers})
        for task in Task
    ]
    prediction = _object("Prediction", {"outputs": reduce(or_, answers), "saved": str}, Prediction)
    faithfulness = _object("Faithfulness", typing.get_type_hints(Faithfulness))
    explanation = _object("Explanation", {"heat": None, "faithfulness": faithfulness}, Explanation)
    conversion = {"name": str, "file": str, "conversion": ConversionRecord, "kept": dict[str, str]}
    built = {
        "model": str,
        "precision": Precision,
        "path": str | None,
        "record": EngineRecord | None,
        "error": str | None,
    }
    found = _object("Finding", {"severity": Severity}, LintFinding)
    report = {"models": int, "errors": int, "fixed": list[str], "findings": list[found]}
    urls = {"http": str, "grpc": str, "metrics": str, "log": str, "models": list[str]}
    change = _record("Change", Change, {"model": str})
    quick = {"manifest": Manifest, "version": int, "http": prediction, "grpc": prediction}
    held = _object("HeldOut", {"image": str, "truth": str, "answer": str, "score": float})
    quick |= {"heldout": list[held], "missing": str, "seconds": dict[str, float]}
    return {
        "quickstart": _object("Quickstart", quick),
        "doctor": list[Finding],
        "models": list[ModelRow],
        "export": Manifest | list[Manifest],
        "convert": list[_record("Converted", FileRecord, conversion)],
        "build-trt": list[_object("Built", built)],
        "validate": Validation,
        "populate": list[PopulatedModel],
        "versions": list[VersionRow],
        "promote": change,
        "rollback": change,
        "lint": _object("Report", report),
        "serve": _object("Urls", urls) | _object("Docker", {"command": list[str]}),
        "predict": list[prediction],
        "bench": Bench,
        "tune": Tuning,
        "explain": list[explanation],
        "plan": Plan,
        "batch": _record("Batch", BatchRecord, {"images_per_second": float}),
        "demo": _object("Demo", {"page": str, "server": str}),
    }


def schemas() -> dict[str, dict[str, Any]]:
    """The schema of each command's document."""
    made = {}
    for command, kind in printed().items():
        schema = TypeAdapter(kind).json_schema(mode="serialization")
        if command == "quickstart":  # which leaves the class names out
            del schema["$defs"]["Manifest"]["properties"]["labels"]
        _make_strict(schema, null_figures=command in NULL_FIGURES)
        made[command] = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"dfvt-deploy {command} --json",
            **schema,
        }
    return made


def _make_strict(node: Any, *, null_figures: bool) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]  # the name of the field again
        if node.get("type") == "object" and "properties" in node:
            node["required"] = sorted(set(node["properties"]) - OPTIONAL)
            node["additionalProperties"] = False
        if null_figures and node.get("type") == "number":
            node["type"] = ["number", "null"]
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list)):
            _make_strict(child, null_figures=null_figures)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, schema in schemas().items():
        text = json.dumps(schema, indent=2) + "\n"
        (FOLDER / f"{name}.schema.json").write_text(text, encoding="utf-8")
