"""Models of the python backend: parsed and never run."""

import ast
from importlib.util import decode_source
from pathlib import Path

from .reading import ModelFolder, is_filled
from .rules import Finding, Findings


def check_python(model: ModelFolder) -> Findings:
    """The environment and the model.py of one model."""
    if model.backend != "python":
        return
    yield from _environment(model)
    for file in model.model_files():
        yield from _python_model(file)


def _environment(model: ModelFolder) -> Findings:
    key, prefix = "EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/"
    if key not in model.config.parameters:
        return
    value = model.config.parameters[key].string_value
    if value.startswith(prefix) and not (model.path / value.removeprefix(prefix)).exists():
        problem = f"the environment {value} is missing"
        yield model.at("model-file", f"parameters[{key}]", problem, "add it, or correct the path")


def _python_model(file: Path) -> Findings:
    if not is_filled(file):
        return
    try:
        tree = ast.parse(decode_source(file.read_bytes()), filename=file.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", 0) or 0
        yield Finding("python-model", file, f"Python cannot parse it: {error}", "correct it", line)
        return
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            path = file.parent.joinpath(*node.module.split("."))
            if not (path.is_dir() or list(path.parent.glob(f"{path.name}.*"))):
                problem = f"it imports .{node.module}, which is not beside it"
                yield Finding("python-model", file, problem, "add the module", node.lineno)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = next((node for node in classes if node.name == "TritonPythonModel"), None)
    named = {alias.asname or alias.name for n in tree.body for alias in getattr(n, "names", ())}
    if found is None and "TritonPythonModel" not in named and not _assigns(tree):
        problem = "it has no class TritonPythonModel, which the python backend looks for"
        yield Finding("python-model", file, problem, "name the class TritonPythonModel")
    elif found is not None and not found.bases:
        methods = {getattr(node, "name", ""): node for node in found.body}
        execute = methods.get("execute")
        if execute is None:
            problem = "TritonPythonModel has no method execute"
            yield Finding("python-model", file, problem, "define execute", found.lineno)
        elif (
            isinstance(execute, ast.FunctionDef | ast.AsyncFunctionDef)
            and not execute.decorator_list
            and not _takes_two(execute.args)
        ):
            problem = f"execute takes ({ast.unparse(execute.args)}), Triton calls it with requests"
            fix = "write def execute(self, requests)"
            yield Finding("python-model", file, problem, fix, execute.lineno)


def _takes_two(arguments: ast.arguments) -> bool:
    names = arguments.posonlyargs + arguments.args
    return len(names) - len(arguments.defaults) <= 2 and (len(names) >= 2 or bool(arguments.vararg))


def _assigns(tree: ast.Module) -> bool:
    names = (
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    )
    return "TritonPythonModel" in names
