"""Protobuf text with the line of every field.

`google.protobuf.text_format` stops at the first problem and forgets the lines. This parser keeps
them and checks a tree against the message's descriptor, so that every unknown field is reported.
The message itself is then made by text_format.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ..text_files import near

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


class SyntaxProblem(Exception):
    """The text is not protobuf text; `line` is where the parser stopped."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


@dataclass
class Field:
    """One `name: value` or `name { … }`. A scalar's `text` is as written, quotes included."""

    name: str
    line: int
    text: str = ""
    fields: "list[Field] | None" = None


Fields: TypeAlias = list[Field]


@dataclass(frozen=True)
class SchemaProblem:
    """A field that the schema does not take, and the id of the rule that it breaks."""

    rule: str
    line: int
    path: str
    problem: str
    fix: str


@dataclass
class ParsedText:
    """A message with the line of each field by its path, such as `input[1].dims`."""

    message: Any
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[SchemaProblem] = field(default_factory=list)

    def line(self, path: str) -> int:
        """The line of a field, or of the closest field around it; 0 where none is written."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path, 0)


def parse_text(text: str, message: Any) -> ParsedText:
    """Parse text into `message`, an empty protobuf message, and find every field it does not take.
    Raises SyntaxProblem where the text cannot be read at all."""
    fields = _Parser(text).fields_until("", 0)
    parsed = ParsedText(message)
    good = _checked(fields, message.DESCRIPTOR, "", parsed)
    try:
        # Where problems were found, the message holds the rest of the fields.
        text_format.Parse(_to_text(good) if parsed.problems else text, message)
    except text_format.ParseError as error:
        line = 0 if parsed.problems else error.GetLine() or 0
        raise SyntaxProblem(line, str(error)) from error
    return parsed


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._next = 0

    def fields_until(self, end: str, depth: int) -> Fields:
        if depth > _MAX_DEPTH:
            raise SyntaxProblem(self._peek()[1], f"messages are nested deeper than {_MAX_DEPTH}")
        found: Fields = []
        while True:
            token, line = self._take()
            if token == end:
                return found
            if token in (",", ";"):
                continue
            if not token:
                raise SyntaxProblem(line, f"the text ends, and {end!r} is missing")
            if not re.fullmatch(r"[A-Za-z_]\w*", token):
                raise SyntaxProblem(line, f"a field name is expected, not {token!r}")
            found += self._field(token, line, depth)

    def _field(self, name: str, line: int, depth: int) -> Iterator[Field]:
        token, where = self._take()
        colon = token == ":"
        if colon:
            token, where = self._take()
        if token == "[":
            while (taken := self._take())[0] != "]":
                if taken[0] != ",":
                    yield self._value(name, taken[1], *taken, depth)
        elif colon or token in _CLOSING:
            yield self._value(name, line, token, where, depth)
        else:
            raise SyntaxProblem(where, f"':' or '{{' is missing after {name!r}")

    def _value(self, name: str, line: int, token: str, where: int, depth: int) -> Field:
        if token in _CLOSING:
            return Field(name, line, fields=self.fields_until(_CLOSING[token], depth + 1))
        if not token or token in ":{}<>[],;":
            raise SyntaxProblem(where, f"a value is expected, not {token or 'the end'!r}")
        while token[0] in "\"'" and self._peek()[0][:1] in ('"', "'"):
            token += f" {self._take()[0]}"
        return Field(name, line, token)

    def _peek(self) -> tuple[str, int]:
        return self._tokens[self._next]

    def _take(self) -> tuple[str, int]:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token


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


def _checked(fields: Fields, schema: Descriptor, prefix: str, parsed: ParsedText) -> Fields:
    """The fields that the schema takes; lines and problems go to `parsed`."""
    counts: dict[str, int] = {}
    good: Fields = []
    for entry in fields:
        known = schema.fields_by_name.get(entry.name)
        repeated = known is not None and _is_repeated(known)
        number = counts[entry.name] = counts.get(entry.name, -1) + 1
        path = prefix + entry.name
        if repeated and known is not None and known.message_type is not None:
            is_map = known.message_type.GetOptions().map_entry
            path += f"[{_key(entry) if is_map else number}]"
        parsed.lines.setdefault(path, entry.line)
        if known is None:
            problem = f"{schema.name} has no field {entry.name!r}"
            wrong = "unknown-field", problem, f"remove it{near(entry.name, schema.fields_by_name)}"
        elif number and not repeated:
            problem = f"{path} is set a second time; it holds one value"
            wrong = "field-twice", problem, "keep one of the two"
        elif (found := _value_problem(entry, known)) is not None:
            wrong = "field-value", *found
        else:
            if entry.fields is not None and known.message_type is not None:
                inner = _checked(entry.fields, known.message_type, f"{path}.", parsed)
                entry = Field(entry.name, entry.line, fields=inner)
            good.append(entry)
            continue
        rule, problem, fix = wrong
        parsed.problems.append(SchemaProblem(rule, entry.line, path, problem, fix))
    return good


def _is_repeated(known: Any) -> bool:
    """protobuf 7 has `is_repeated` alone, protobuf 4 has `label` alone."""
    if hasattr(known, "is_repeated"):
        return bool(known.is_repeated)
    return bool(known.label == known.LABEL_REPEATED)


def _key(entry: Field) -> str:
    keys = (inner.text for inner in entry.fields or () if inner.name == "key")
    return next(keys, "").strip("\"'")


def _value_problem(entry: Field, known: FieldDescriptor) -> tuple[str, str] | None:
    """What is wrong with a field's value and what to do, or None."""
    name, text = entry.name, entry.text
    if known.message_type is not None and entry.fields is None:
        return f"{name} is a message, not {text}", f"write {name} {{ … }}"
    if known.message_type is not None:
        return None
    if entry.fields is not None:
        return f"{name} is one value, not a message", f"write {name}: VALUE"
    if known.enum_type is not None:
        words = known.enum_type.values_by_name
        good = text in words or bool(re.fullmatch(r"-?\d+", text))
        problem = f"{name} {text} is none of {', '.join(words)}"
        fix = f"give one of them without quotes{near(text.strip(chr(34)), words)}"
    elif known.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        good = text[:1] in ('"', "'")
        problem, fix = f"{name} {text} is not a text", "put it in quotes"
    elif known.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        good = text in ("true", "false", "True", "False", "t", "f", "0", "1")
        problem, fix = f"{name} {text} is not true or false", "write true or false"
    else:
        fraction = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
        of_fraction = r"[-+]?[\d.]+([eE][-+]?\d+)?f?|-?inf|nan"
        of_whole = r"-?(0[xX][0-9a-fA-F]+|\d+)"
        pattern = of_fraction if known.cpp_type in fraction else of_whole
        good = bool(re.fullmatch(pattern, text))
        problem = f"{name} {text} is not a number of this kind"
        fix = "write a number without quotes"
    return None if good else (problem, fix)


def _to_text(fields: Sequence[Field]) -> str:
    return "\n".join(
        f"{entry.name}: {entry.text}"
        if entry.fields is None
        else f"{entry.name} {{\n{_to_text(entry.fields)}\n}}"
        for entry in fields
    )
