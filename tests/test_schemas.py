"""The published schemas of `--json`: one for each command, as the code has it, and each is used."""

import importlib.util
import json
import re

import jsonschema
import pytest

from .fixtures import SCHEMAS, json_document
from .test_commands import COMMANDS, ROOT

_specification = importlib.util.spec_from_file_location("schemas", ROOT / "docs" / "schemas.py")
schemas = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(schemas)


def test_every_command_has_a_schema_that_a_test_holds_its_output_against():
    published = {path.name: json.loads(path.read_text()) for path in SCHEMAS.iterdir()}
    made = {f"{name}.schema.json": schema for name, schema in schemas.schemas().items()}
    assert published == made, "run: make schema"
    assert {name.partition(".")[0] for name in made} == set(COMMANDS)
    page = (ROOT / "docs" / "json.md").read_text()
    assert all(f"](schemas/{name})" in page for name in made)
    tests = [path for path in (ROOT / "tests").glob("test_*.py") if path.name != "test_schemas.py"]
    checked = re.findall(r'json_document\(\s*"([\w-]+)"', "".join(t.read_text() for t in tests))
    assert set(checked) == set(COMMANDS)


def test_a_field_that_vanished_or_is_not_documented_fails():
    document = {"page": "http://127.0.0.1:8080", "server": "127.0.0.1:8000"}
    json_document("demo", json.dumps(document))
    for wrong in ({**document, "further": 1}, {"page": document["page"]}):
        with pytest.raises(jsonschema.ValidationError):
            json_document("demo", json.dumps(wrong))
