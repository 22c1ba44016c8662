"""Every code block of every page: what test_tutorials.py does not run is parsed, command by command
and name by name. What can be neither is in `LEFT_OUT`, with the reason."""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from .test_commands import COMMANDS, ROOT, command_of, options_type, parsed
from .test_tutorials import NOT_RUN, OTHERS, TUTORIALS

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "exports/*.md", "model_repository/*.md")
    for path in ROOT.glob(pattern)
)

#: Programs and packages that are not there, and why what needs them is not run. Their files,
#: values and syntax are looked at all the same.
LEFT_OUT = {
    "docker": "needs a Docker engine",
    "helm": "needs a cluster; test_kubernetes.py renders the chart",
    "kubectl": "needs a cluster; test_kubernetes.py checks the manifests",
    "perf_analyzer": "needs glibc 2.38",
    "prometheus": "runs until it is stopped; test_monitoring.py runs it",
    "fiftyone": "is not installed; its importer was read",
    "supervision": "is not installed",
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
HEREDOC = re.compile(r"<<'(\w+)'([^\n]*)\n(.*?)^\1$", re.M | re.S)
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def messages(parts: dict, of: object) -> list[type]:
    """The classes of these messages and of those in them."""
    found = [getattr(of, name) for name in parts if hasattr(of, name)]
    inner = (messages(each.DESCRIPTOR.nested_types_by_name, each) for each in found)
    return [*found, *itertools.chain.from_iterable(inner)]


MESSAGES = messages(model_config_pb2.DESCRIPTOR.message_types_by_name, model_config_pb2)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def runs(page: str, text: str) -> bool:
    """Whether test_tutorials.py runs the block."""
    stem = Path(page).stem
    if stem in (*TUTORIALS, "serving"):
        before = (ROOT / page).read_text().partition(text)[0]
        return not before.rpartition("\n```")[0].endswith("-->")
    return any(text.startswith(start) for start in OTHERS.get(page, ()))


def check(page: str, kind: str, text: str) -> list[str]:
    """What was done about a block, or an error that says what is wrong with it."""
    if kind in ("bash", "python") and runs(page, text):
        return ["run"]
    return {
        "bash": check_bash,
        "python": check_python,
        "json": lambda text: [f"parsed {len(json.loads(text))} fields"],
        "yaml": lambda text: [f"parsed {len(yaml.safe_load(text))} fields"],
        "pbtxt": check_config,
        "text": lambda _: ["shown"],
    }[kind](text)


def check_bash(text: str) -> list[str]:
    done = [each for *_, code in HEREDOC.findall(text) for each in check_python(code)]
    for line in HEREDOC.sub(r"\2", text).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"\d?[<>]+ ?\S+", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for between, words in itertools.groupby(lexer, lambda word: set(word) <= set("|&;")):
            if not between:
                given = itertools.dropwhile(re.compile(r"\w+=").match, words)
                done += check_command(*given)
    return done


def check_command(program: str, *words: str) -> list[str]:
    if program == "dfvt-deploy":
        return [f"parsed {parsed(shlex.join([program, *words])).command}"]
    if program == "python":
        return check_script(*words)
    if program == "make":
        (target,) = (word for word in words if "=" not in word)
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M), f"make {target}"
        return [f"make {target}: is a target"]
    if program == "pip":
        extras = re.findall(r"\[([\w,-]+)\]", " ".join(words))
        for extra in ",".join(extras).split(",") if extras else ():
            assert re.search(rf"^{extra} = \[", PYPROJECT, re.M), f"there is no extra {extra}"
        return [f"pip: extras {', '.join(extras)} exist" if extras else "pip: has no extras"]
    assert program in LEFT_OUT, f"{program} is neither known nor in LEFT_OUT"
    for option, value in itertools.pairwise(words):
        if option in ("--file", "--filename") or value.startswith("deploy/"):
            assert (ROOT / value).exists(), value
        elif option == "--set":
            check_values(value)
    return [f"left out: {program} {LEFT_OUT[program]}"]


def check_script(first: str, *words: str) -> list[str]:
    if first == "-":
        return []  # a heredoc
    if first == "-c":
        return check_python(words[0])
    if first == "-m":
        first, words = words[0], words[1:]
    path = ROOT / (first if first.endswith(".py") else f"{first.replace('.', '/')}.py")
    if not path.exists():
        assert importlib.util.find_spec(first), f"there is no module {first}"
        return [f"python: module {first} exists"]
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in path.read_text(), f"{first} {word}"
    return [f"python: {first} exists with its options"]


def check_values(text: str) -> None:
    """The chart has the values of `helm --set`."""
    for key in re.findall(r"(?:^|,)([\w.]+)=", text):
        values = yaml.safe_load((ROOT / "deploy/helm/dfvt-deploy/values.yaml").read_text())
        for part in key.split("."):
            assert part in values, f"the chart has no value {key}"
            values = values[part]


def check_python(text: str) -> list[str]:
    """Names are defined, and those of this package exist and take what they are given."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F", "--quiet", "-"]
    done = subprocess.run(ruff, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    ours, missing = {}, []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("dfvt_deploy"):
            module = importlib.import_module(node.module)
            ours |= {each.name: getattr(module, each.name) for each in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or each.name for each in node.names]
            missing += [name for name in names if not importlib.util.find_spec(name.split(".")[0])]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id not in ours or hasattr(ours[node.value.id], node.attr), node.attr
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ours
        ):
            check_call(ours[node.func.id], node)
    return [f"left out: {name} {LEFT_OUT[name]}" for name in missing] or [
        "names exist: " + ", ".join(ours)
    ]


def check_call(function: object, call: ast.Call) -> None:
    signature = inspect.signature(function)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    signature.bind(*call.args, **given)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in signature.parameters.values()):
        fields = inspect.signature(options_type(function.__name__.replace("_", "-"))).parameters
        unknown = given.keys() - fields.keys() - signature.parameters.keys()
        assert not unknown, f"{function.__name__} has no {unknown}"


def check_config(text: str) -> list[str]:
    """The text is a message of Triton's model configuration; an ellipsis stands for more."""
    for message in MESSAGES:
        try:
            text_format.Parse(text.replace("…", ""), message())
        except text_format.ParseError:
            continue
        return [f"parsed {message.__name__}"]
    raise AssertionError(f"no part of a config:\n{text}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_no_block_that_is_neither_run_nor_parsed(page):
    text = page.read_text()
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 1
        for done in check(name_of(page), *block.groups()):
            sys.stdout.write(f"{name_of(page)}:{line}: {done}\n")  # shown by pytest -rP


def test_no_reason_to_leave_something_out_is_out_of_date():
    done = [
        each
        for page in PAGES
        for block in BLOCK.findall(page.read_text())
        if block[0] in ("bash", "python")
        for each in check(name_of(page), *block)
    ]
    assert {each for each in done if each.startswith("left out: ")} == {
        f"left out: {program} {reason}" for program, reason in LEFT_OUT.items()
    }
    assert sum(each == "run" for each in done) > 30 and len(done) > 100
    assert not {*NOT_RUN} - {*TUTORIALS, "serving"}


def test_options_named_in_sentences_exist():
    found = 0
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # which names what is gone
            continue
        text = BLOCK.sub("", page.read_text())
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
            name, *words = code.removeprefix("dfvt-deploy ").split()
            if name in COMMANDS:
                known = {o for p in command_of(name).params for o in (*p.opts, *p.secondary_opts)}
                unknown = {word for word in words if word.startswith("--")} - known
                assert not unknown, f"{name_of(page)}: {code}"
                found += 1
    assert found > 100


def test_commands_in_the_scripts_parse():
    texts = [
        p.read_text() for folder in ("examples", "benchmarks") for p in (ROOT / folder).iterdir()
    ]
    lines = re.findall(r"^    (dfvt-deploy .*)", "\n".join(texts).replace("\\\\\n", " "), re.M)
    assert len(lines) > 5
    for line in lines:
        parsed(line)


#: Blocks with one mistake each, and what the error says.
WRONG = {
    "dfvt-deploy populate m --presicion fp16": "No such option: --presicion",
    "dfvt-deploy populate m --precision fp61": "--precision 'fp61' is none of",
    "X=1 dfvt-deploy lint r \\\n  --target 26.07 | less": "less is neither known nor",
    "true && dfvt-deploy publish m": "true is neither known nor",
    "dfvt-deploy publish m": "publish",
    "dfvt-deploy serve m": "unexpected extra argument",
    "pip install 'dfvt-deploy[cups]'": "there is no extra cups",
    "make pages": "make pages",
    "python benchmarks/batch.py m --server": "--server",
    "python -m examples.train_numbers d": "there is no module examples.train_numbers",
    "python - <<'END' > f\nprint(undefined)\nEND": "undefined",
    "kubectl apply --filename deploy/kserve/none.yaml": "none.yaml",
    "helm install dfvt deploy/helm/dfvt-deploy --set gpu=0": "the chart has no value gpu",
}
WRONG_PYTHON = {
    "from dfvt_deploy import exports\nexports()": "no attribute 'exports'",
    "from dfvt_deploy import export\nexport('s', optset=20)": "unexpected keyword argument",
    "from dfvt_deploy.types import Precision\nPrecision.FP61": "FP61",
    "from dfvt_deploy.tasks.rle import decode\ndecode()": "missing a required argument",
    "import numpy\nnp.zeros(3)": "Undefined name `np`",
    "print(": "invalid-syntax",
}
WRONG_DATA = {
    ("json", '{"a": 1,}'): "double quotes",
    ("yaml", "a: [1"): "expected ',' or ']'",
    ("pbtxt", 'input { nam: "image" }'): "no part of a config",
    ("console", "ls"): "console",
}


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        *(("bash", text, message) for text, message in WRONG.items()),
        *(("python", text, message) for text, message in WRONG_PYTHON.items()),
        *((*block, message) for block, message in WRONG_DATA.items()),
    ],
)
def test_a_block_that_is_wrong_fails(kind, text, message):
    with pytest.raises(Exception) as wrong:
        check("docs/none.md", kind, text)
    assert message in (getattr(wrong.value, "message", "") or str(wrong.value))


def test_a_block_that_is_right_passes():
    text = "X=1 dfvt-deploy lint r --target \\\n  tritonserver:26.07 > found  # all of it"
    assert check("docs/none.md", "bash", text) == ["parsed lint"]
