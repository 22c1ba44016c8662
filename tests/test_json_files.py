"""JSON from elsewhere: what is refused, and that refusing takes no time."""

import json
import os

import pytest

from dfvt_deploy.json_files import MAX_DEPTH, JsonError, parse_json, read_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[1,]", "not JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
        ("[NaN]", "the number NaN is not finite"),
        ("[-Infinity]", "is not finite"),
        ("[1e999]", "is not finite"),
        (f"[{2**63}]", "more than 64 bits"),
        (f"[{'9' * 100_000}]", "more than 64 bits"),
        (r'["\ud800"]', "half a surrogate pair"),
        (r'{"\uDFFF": 1}', "half a surrogate pair"),
        (r'["a\u0000b"]', "null character"),
        ("[" * (MAX_DEPTH + 1), "deeper than 64 levels"),
        ("[" * 10_000_000, "deeper than 64 levels"),
        ('{"a":' * 100_000, "deeper than 64 levels"),
        ('"' + r"\"" * 1_000_000, "not JSON"),
    ],
)
def test_text_beyond_the_limits_is_refused(text, reason):
    with pytest.raises(JsonError, match=reason):
        parse_json(text)


def test_other_text_is_read_as_json_reads_it():
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    for text in (
        '{"a": [1, 2.5, -3, true, null, "[[[{\\"", "\\ud83d\\ude00"]}',
        nested,
        str(2**63 - 1),
    ):
        assert parse_json(text) == json.loads(text)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin").write_bytes(b'["\xe9"]')
    (tmp_path / "large").write_text("[1]")
    reasons = {
        "fifo": "is not a regular file",
        "folder": "is not a regular file",
        "latin": "is not UTF-8 text: byte 2",
        "missing": "does not exist",
        "a\0b": "does not exist",
    }
    for name, reason in reasons.items():
        with pytest.raises(JsonError, match=reason):
            read_json(tmp_path / name)
    with pytest.raises(JsonError, match="has 3 bytes, the limit is 2"):
        read_json(tmp_path / "large", max_bytes=2)
    assert read_json(tmp_path / "large") == [1]
