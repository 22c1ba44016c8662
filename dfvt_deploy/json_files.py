"""The one reader of JSON that another program or another person may have written or damaged."""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

from .errors import BadInput
from .text_files import MAX_BYTES, read_text

#: Most objects and arrays that may lie inside each other.
MAX_DEPTH = 64

_LEAST, _LARGEST = -(2**63), 2**63 - 1

#: Escapes of halves of surrogate pairs and of the null character.
_SUSPECT_ESCAPE = re.compile(r"\\u(?:[dD][89a-fA-F]|0000)")

# The closing quote is optional so that a string without one is scanned once.
_STRINGS_AND_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)


class JsonError(BadInput):
    """A file or text is not JSON within the limits of this module; the message says why."""


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read a UTF-8 file that holds one JSON document; see `parse_json` for what is refused. Raises
    JsonError where the file is missing, not a regular file, larger than `max_bytes`, or refused."""
    try:
        return parse_json(read_text(path, str(path), max_bytes))
    except JsonError as error:
        raise JsonError(f"{path} cannot be read: {error}") from None
    except BadInput as error:
        raise JsonError(str(error)) from None


def parse_json(text: str) -> Any:
    """Parse one JSON document. Raises JsonError where the text is not JSON, nests deeper than
    MAX_DEPTH, repeats a key, or holds NaN, an infinite number, an integer beyond 64 bits, half a
    surrogate pair or a null character."""
    _check_depth(text)
    try:
        content = json.loads(text, object_pairs_hook=_object, **_NUMBERS)
        if _SUSPECT_ESCAPE.search(text):
            _check_characters(content)
    except json.JSONDecodeError as error:
        raise JsonError(f"it is not JSON: {error}") from None
    return content


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRINGS_AND_BRACKETS.finditer(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JsonError(f"objects and arrays nest deeper than {MAX_DEPTH} levels")
        elif first in "]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise JsonError(f"an object has the key {repeated!r} twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _int64(text: str) -> int:
    # The length is looked at first because Python refuses to parse thousands of digits.
    if len(text) > 20 or not _LEAST <= (number := int(text)) <= _LARGEST:
        _refuse_number(text)
    return number


def _refuse_number(text: str) -> NoReturn:
    shown = text if len(text) <= 24 else f"{text[:24]}…"
    raise JsonError(f"the number {shown} is not finite or needs more than 64 bits")


_NUMBERS: Any = {"parse_float": _finite, "parse_int": _int64, "parse_constant": _refuse_number}


def _check_characters(content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False)
    if not text.isprintable() and re.search("[\ud800-\udfff]", text):
        raise JsonError("a string holds half a surrogate pair")
    if r"\u0000" in text:
        raise JsonError("a string holds a null character")
