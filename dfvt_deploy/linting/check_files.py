"""Folders, names, versions and files; a file of Python is parsed and never run."""

import ast
import json
import os
import stat
from collections.abc import Callable
from importlib.util import decode_source
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DfvtError
from ..names import STEPS
from .reading import CONFIG, ENSEMBLE, ModelFolder, Repository, is_filled, is_lfs_pointer
from .rules import Finding, Findings

#: Model files that are text: of vLLM, and of OpenVINO (expat takes no entities from outside).
_PARSERS: dict[str, Callable[[bytes], object]] = {
    ".json": json.loads,
    ".xml": ElementTree.fromstring,
}


def check_tree(repository: Repository) -> Findings:
    """Links, permissions and libraries anywhere below the folder that was asked for."""
    root = repository.path.resolve()
    for path in sorted(repository.folder.rglob("*")):
        target = Path(os.path.realpath(path))  # resolve() raises where links go in a circle
        if path.is_symlink() and not target.is_relative_to(root):
            fix = "copy the file into the repository"
            yield Finding("link-outside", path, f"it leads to {target}", fix)
        elif path.is_symlink() or not path.exists():
            continue
        elif (mode := stat.S_IMODE(path.stat().st_mode)) & stat.S_IWOTH:
            problem = f"its mode is {mode:04o}"
            yield Finding("writable-by-others", path, problem, f"chmod o-w {path}")
        if path.is_file() and (path.suffix == ".so" or ".so." in path.name):
            fix = "remove it, or keep libraries in the server's backend folder"
            yield Finding("shared-library", path, "the server may load it as a backend", fix)


def check_folder(model: ModelFolder) -> Findings:
    """A model's config as text, its name, its versions and their files."""
    yield from model.parsed.findings
    if not model.versions and not model.parsed.file.is_file():
        fix = "move it out of the repository: Triton takes every folder for a model"
        problem = "it has no config and no version folder"
        yield Finding("not-a-model", model.path, problem, fix)
    elif not model.parsed.file.is_file():
        rule = "config-completed" if model.has_config else "no-config"
        fix = f"write {model.parsed.file}; Triton guesses one for few backends only"
        yield Finding(rule, model.path, f"it has versions and no {CONFIG}", fix)
    if not model.has_config:
        return
    if model.config.name and model.config.name != model.name:
        problem = f"name is {model.config.name!r}, the folder is {model.name!r}"
        yield model.at("name-mismatch", "name", problem, "give both the same name")
    yield from _versions(model)
    if model.backend and model.backend != ENSEMBLE:
        for file in model.model_files():
            yield from _model_file(file)
            if model.backend == "python" and is_filled(file):
                yield from _python_model(file)
    key, inside = "EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/"
    if model.backend == "python" and key in model.config.parameters:
        value = model.config.parameters[key].string_value
        if value.startswith(inside) and not (model.path / value.removeprefix(inside)).exists():
            problem, fix = f"the environment {value} is missing", "add it, or correct the path"
            yield model.at("model-file", f"parameters[{key}]", problem, fix)


def _versions(model: ModelFolder) -> Findings:
    for folder in model.ignored:
        fix = f"rename it to {int(folder.name)}"
        yield Finding("version-folder", folder, "a version has no leading zeros", fix)
    specific = model.config.version_policy.specific.versions
    for number in specific:
        if number not in model.versions:
            have = ", ".join(map(str, model.versions)) or "none"
            problem = f"version {number} is not there; the folders are {have}"
            field, fix = "version_policy.specific.versions", "add the folder, or remove the number"
            yield model.at("version-missing", field, problem, fix)
    if not model.served_versions and not specific:
        empty = ", which stays empty" if model.backend == ENSEMBLE else ""
        problem = "it has no version folder that the version policy loads"
        fix = f"make the folder {model.path / '1'}{empty}"
        yield Finding("no-version", model.path, problem, fix)


def _model_file(file: Path) -> Findings:
    if not file.exists():
        others = "nothing"
        if file.parent.is_dir():
            others = ", ".join(sorted(p.name for p in file.parent.iterdir())) or others
        problem = f"the backend loads {file.name}, the folder holds {others}"
        fix = "add the file, or name another with default_model_filename"
        yield Finding("model-file", file.parent, problem, fix)
    elif file.suffix == ".xml" and not file.with_suffix(".bin").is_file():
        problem = f"the weights of {file.name} are missing: {file.stem}.bin"
        yield Finding("model-file", file, problem, "copy both files of the OpenVINO model")
    elif file.is_file() and file.stat().st_size == 0:
        yield Finding("model-file", file, "the file is empty", "copy it again")
    elif file.is_file() and is_lfs_pointer(file):
        fix = "run: git lfs pull"
        yield Finding("git-lfs-pointer", file, "the file is a pointer of Git LFS", fix)
    elif file.suffix == ".savedmodel" and not list(file.glob("saved_model.pb*")):
        yield Finding("model-file", file, "it holds no saved_model.pb", "copy the whole folder")
    elif file.is_file() and file.suffix in _PARSERS:
        try:
            _PARSERS[file.suffix](file.read_bytes())
        except (ValueError, ElementTree.ParseError, RecursionError) as error:
            problem = f"{file.name} cannot be parsed: {error}"
            yield Finding("model-file", file, problem, "correct it")


def _python_model(file: Path) -> Findings:
    try:
        tree = ast.parse(decode_source(file.read_bytes()), filename=file.name)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", 0) or 0
        yield Finding("python-model", file, f"Python cannot parse it: {error}", "correct it", line)
        return
    named: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            named |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            named |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            path = file.parent.joinpath(*node.module.split("."))
            if not (path.is_dir() or list(path.parent.glob(f"{path.name}.*"))):
                problem = f"it imports .{node.module}, which is not beside it"
                yield Finding("python-model", file, problem, "add the module", node.lineno)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = next((node for node in classes if node.name == "TritonPythonModel"), None)
    if found is None and "TritonPythonModel" not in named:
        problem = "it has no class TritonPythonModel, which the python backend looks for"
        yield Finding("python-model", file, problem, "name the class TritonPythonModel")
    elif found is not None and not found.bases:
        execute = {getattr(node, "name", ""): node for node in found.body}.get("execute")
        if execute is None:
            problem = "TritonPythonModel has no method execute"
            yield Finding("python-model", file, problem, "define execute", found.lineno)
        elif isinstance(execute, ast.FunctionDef | ast.AsyncFunctionDef) and not (
            execute.decorator_list or _takes_two(execute.args)
        ):
            problem = f"execute takes ({ast.unparse(execute.args)}), Triton calls it with requests"
            fix = "write def execute(self, requests)"
            yield Finding("python-model", file, problem, fix, execute.lineno)


def _takes_two(arguments: ast.arguments) -> bool:
    names = arguments.posonlyargs + arguments.args
    return len(names) - len(arguments.defaults) <= 2 and (len(names) >= 2 or bool(arguments.vararg))


def check_ours(repository: Repository) -> Findings:
    """The models of this package in a repository; nothing where there are none."""
    from ..serving.layout import verify_repository

    try:
        verify_repository(repository.path)
    except DfvtError as error:
        yield Finding("manifest-hash", repository.path, str(error), "populate the model again")
    for model in repository.checked:
        steps = [repository.models.get(f"{model.name}_{step}") for step in STEPS]
        newest = {m.name: max(m.versions, default=0) for m in (*steps, model) if m}
        if all(steps) and len(set(newest.values())) > 1:
            found = ", ".join(f"{name} {version}" for name, version in newest.items())
            problem = f"the newest versions are {found}: answers mix two exports"
            fix = f"populate {model.name} again, or remove the incomplete version"
            yield Finding("versions-apart", model.path, problem, fix)
