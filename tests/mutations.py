"""Damaged JSON documents: values of other types and sizes, missing and repeated keys, cut bytes."""

import copy
import json
import random
from collections.abc import Iterator

#: Values that take the place of one in a document.
VALUES = [None, True, 0, -1, 1.5, 1e308, 2**31, 2**63, 10**400]
VALUES += ["", "x", "\0", "a\nb", "../x", "\u2028", "x" * 100_000, "-h", "..", "a_network"]
VALUES += ["fp32", "int8", "uint8", "float64", "model.onnx", "model.int8.onnx"]
VALUES += [[], {}, [[]], [1], ["a"], {"a": 1}, [None] * 1000]

#: Text that takes the place of a value, which `json.dumps` would not write.
TEXTS = [
    "NaN",
    "-Infinity",
    "1e999",
    r'"\ud800"',
    "[" * 5000 + "]" * 5000,
    "9" * 6000,
    '{"a":1,"a":2}',
]
TEXTS += [r'"\u0000"', "", "]", '"', "01"]


def _paths(value: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = list(enumerate(value))[:8] if isinstance(value, list) else items
    for key, inner in items:
        yield from _paths(inner, (*path, key))


def mutated(document: dict, seed: int) -> bytes:
    """The text of a document after one to three changes, the same for the same seed."""
    rng = random.Random(seed)
    document, text = copy.deepcopy(document), None
    for _ in range(rng.choice((1, 1, 2, 3))):
        paths = [path for path in _paths(document) if path]
        top = rng.choice(sorted({str(path[0]) for path in paths}))
        *outer, key = rng.choice([path for path in paths if str(path[0]) == top])
        parent = document
        for step in outer:
            parent = parent[step]
        kind = rng.random()
        if kind < 0.15:
            del parent[key]
        elif kind < 0.3 and isinstance(parent, dict):
            parent[rng.choice((f"{key}\n", f"../{key}", "surprise", "model.int8.onnx"))] = (
                parent.pop(key)
            )
        elif kind < 0.4 and isinstance(parent, list):
            parent.insert(0, copy.deepcopy(parent[key]))
        elif kind < 0.55:
            parent[key], text = "@", rng.choice(TEXTS)
        else:
            parent[key] = copy.deepcopy(rng.choice(VALUES))
    content = json.dumps(document).replace('"@"', text or "null").encode()
    if rng.random() < 0.15:
        start = rng.randrange(len(content))
        middle = bytes(rng.choices(b'[]{}",:0\\\xff\x00', k=rng.choice((0, 1, 3))))
        content = content[:start] + middle + content[start + rng.choice((0, 1, 10, 10**6)) :]
    return content
