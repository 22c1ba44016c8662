"""Protobuf text with the line of every field.

`google.protobuf.text_format` stops at the first problem and forgets the lines. This parser keeps
them and asks it about one value after the other, so that every wrong field is reported.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from ..text_files import near
from .rules import Finding

#: One token: white space and comments, a string, a word or number, or a sign.
_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<word>[A-Za-z0-9_.+-]+)
    |(?P<sign>[:{}<>\[\],;])""",
    re.VERBOSE,
)

#: Deepest nesting that is read. The schema itself nests six messages.
_MAX_DEPTH = 32

_CLOSING = {"{": "}", "<": ">"}

#: What a value of a kind must be, and what to do where it is not; other kinds are numbers.
_KINDS = {
    FieldDescriptor.CPPTYPE_STRING: ("a text", "put it in quotes"),
    FieldDescriptor.CPPTYPE_BOOL: ("true or false", "write true or false"),
}
_NUMBER = ("a number of this kind", "write a number without quotes")


class SyntaxProblem(Exception):
    """The text is not protobuf text: the line where the parser stopped, and why."""


@dataclass(frozen=True)
class Field:
    """One `name: value` or `name { … }`. A scalar's `text` is as written, quotes included."""

    name: str
    line: int
    text: str = ""
    fields: "list[Field] | None" = None


#: The tokens that are left, each with its line; the last one is empty.
Tokens: TypeAlias = deque[tuple[str, int]]


@dataclass(frozen=True)
class ParsedText:
    """The line of each field by its path, such as `input[1].dims`, and a finding for each field
    that the schema does not take."""

    file: Path
    lines: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def parse_text(text: str, message: Any, file: Path) -> ParsedText:
    """Parse a file's text into `message`, an empty protobuf message, which gets all the fields that
    it takes. Raises SyntaxProblem where the text cannot be read at all."""
    fields = _fields_until("", deque(_tokens(text)), 0)
    parsed = ParsedText(file)
    good = _good_text(fields, message.DESCRIPTOR, "", parsed)
    try:
        text_format.Merge(good if parsed.findings else text, message)
    except text_format.ParseError as error:
        line = 0 if parsed.findings else error.GetLine() or 0
        raise SyntaxProblem(line, str(error)) from error
    return parsed


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    place, line = 0, 1
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise SyntaxProblem(line, f"unexpected character {text[place]!r}")
        if match.lastgroup != "space":
            if "\ufffd" in match[0]:
                raise SyntaxProblem(line, f"{match[0]} is not UTF-8")
            yield match[0], line
        line += match[0].count("\n")
        place = match.end()
    yield "", line


def _fields_until(end: str, tokens: Tokens, depth: int) -> list[Field]:
    if depth > _MAX_DEPTH:
        raise SyntaxProblem(tokens[0][1], f"messages are nested deeper than {_MAX_DEPTH}")
    found: list[Field] = []
    while True:
        token, line = tokens.popleft()
        if token == end:
            return found
        if token in (",", ";"):
            continue
        if not token:
            raise SyntaxProblem(line, f"the text ends, and {end!r} is missing")
        if not re.fullmatch(r"[A-Za-z_]\w*", token):
            raise SyntaxProblem(line, f"a field name is expected, not {token!r}")
        found += _field(token, line, tokens, depth)


def _field(name: str, line: int, tokens: Tokens, depth: int) -> Iterator[Field]:
    if colon := tokens[0][0] == ":":
        tokens.popleft()
    token, where = tokens[0]
    if token == "[":
        tokens.popleft()
        while (following := tokens[0])[0] != "]":
            if following[0] == ",":
                tokens.popleft()
            else:
                yield _value(name, following[1], tokens, depth)
        tokens.popleft()
    elif colon or token in _CLOSING:
        yield _value(name, line, tokens, depth)
    else:
        raise SyntaxProblem(where, f"':' or '{{' is missing after {name!r}")


def _value(name: str, line: int, tokens: Tokens, depth: int) -> Field:
    token, where = tokens.popleft()
    if token in _CLOSING:
        return Field(name, line, fields=_fields_until(_CLOSING[token], tokens, depth + 1))
    if not token or token in ":{}<>[],;":
        raise SyntaxProblem(where, f"a value is expected, not {token or 'the end'!r}")
    while token[0] in "\"'" and tokens[0][0][:1] in ('"', "'"):
        token += f" {tokens.popleft()[0]}"
    return Field(name, line, token)


def _good_text(fields: list[Field], schema: Descriptor, prefix: str, parsed: ParsedText) -> str:
    """The fields that the schema takes, as text; lines and findings go to `parsed`."""
    counts: Counter[str] = Counter()
    good = ""
    for entry in fields:
        known = schema.fields_by_name.get(entry.name)
        repeated = known is not None and _is_repeated(known)
        inner = None if known is None else known.message_type
        path = prefix + entry.name
        if repeated and inner is not None:
            is_map = inner.GetOptions().map_entry
            path += f"[{_key(entry) if is_map else counts[entry.name]}]"
        parsed.lines.setdefault(path, entry.line)
        counts[entry.name] += 1
        if known is None:
            problem = f"{schema.name} has no field {entry.name!r}"
            wrong = "unknown-field", problem, f"remove it{near(entry.name, schema.fields_by_name)}"
        elif counts[entry.name] > 1 and not repeated:
            problem = f"{path} is set a second time; it holds one value"
            wrong = "field-twice", problem, "keep one of the two"
        elif inner is not None and entry.fields is not None:
            inside = _good_text(entry.fields, inner, f"{path}.", parsed)
            good += f"{entry.name} {{\n{inside}}}\n"
            continue
        elif problems := _value_problem(entry, known, schema):
            wrong = "field-value", *problems
        else:
            good += f"{entry.name}: {entry.text}\n"
            continue
        rule, problem, fix = wrong
        parsed.findings.append(Finding(rule, parsed.file, problem, fix, entry.line, path))
    return good


def _is_repeated(known: Any) -> bool:
    """protobuf 7 has `is_repeated` alone, protobuf 4 has `label` alone."""
    if hasattr(known, "is_repeated"):
        return bool(known.is_repeated)
    return bool(known.label == known.LABEL_REPEATED)


def _key(entry: Field) -> str:
    keys = (inner.text for inner in entry.fields or () if inner.name == "key")
    return next(keys, "").strip("\"'")


def _value_problem(
    entry: Field, known: FieldDescriptor, schema: Descriptor
) -> tuple[str, str] | None:
    """What is wrong with the value of a message's field and what to do, or None."""
    name, text = entry.name, entry.text
    if known.message_type is not None:
        return f"{name} is a message, not {text}", f"write {name} {{ … }}"
    if entry.fields is not None:
        return f"{name} is one value, not a message", f"write {name}: VALUE"
    try:
        text_format.Merge(f"{name}: {text}", GetMessageClass(schema)())
        return None
    except text_format.ParseError:
        if known.enum_type is not None:
            words = known.enum_type.values_by_name
            fix = f"give one of them without quotes{near(text.strip(chr(34)), words)}"
            return f"{name} {text} is none of {', '.join(words)}", fix
        kind, fix = _KINDS.get(known.cpp_type, _NUMBER)
        return f"{name} {text} is not {kind}", fix
