"""Folders, names, versions and files."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from ..errors import DfvtError
from ..names import STEPS
from .reading import CONFIG, ENSEMBLE, ModelFolder, Repository, is_lfs_pointer
from .rules import Finding, Findings

#: Model files that are text: of vLLM, and of OpenVINO (expat takes no entities from outside).
_PARSERS: dict[str, Callable[[bytes], object]] = {
    ".json": json.loads,
    ".xml": ElementTree.fromstring,
}


def check_repository(repository: Repository) -> Findings:
    """Links, permissions and libraries anywhere below the repository."""
    root = repository.path.resolve()
    for path in sorted(repository.path.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            fix = "copy the file into the repository"
            yield Finding("link-outside", path, f"it leads to {path.resolve()}", fix)
        elif path.is_symlink() or not path.exists():
            continue
        elif stat.S_IMODE(path.stat().st_mode) & stat.S_IWOTH:
            mode = f"{stat.S_IMODE(path.stat().st_mode):04o}"
            yield Finding("writable-by-others", path, f"its mode is {mode}", f"chmod o-w {path}")
        if path.is_file() and (path.suffix == ".so" or ".so." in path.name):
            fix = "remove it, or keep libraries in the server's backend folder"
            yield Finding("shared-library", path, "the server may load it as a backend", fix)


def check_folder(model: ModelFolder) -> Findings:
    """A model's config as text, its name, its versions and their files."""
    yield from model.findings
    for p in model.parsed.problems:
        yield Finding(p.rule, model.config_path, p.problem, p.fix, p.line, p.path)
    if not model.config_path.is_file():
        yield _without_config(model)
    if not model.has_config:
        return
    if model.config.name and model.config.name != model.name:
        problem = f"name is {model.config.name!r}, the folder is {model.name!r}"
        yield model.at("name-mismatch", "name", problem, "give both the same name")
    yield from _versions(model)
    if model.backend and model.backend != ENSEMBLE:
        for file in model.model_files():
            yield from _model_file(file)


def _without_config(model: ModelFolder) -> Finding:
    if not model.versions:
        fix = "move it out of the repository: Triton takes every folder for a model"
        return Finding("not-a-model", model.path, "it has no config and no version folder", fix)
    rule = "config-completed" if model.has_config else "no-config"
    fix = f"write {model.path / CONFIG}; Triton guesses one for few backends only"
    return Finding(rule, model.path, f"it has versions and no {CONFIG}", fix)


def _versions(model: ModelFolder) -> Findings:
    for folder in model.ignored:
        fix = f"rename it to {int(folder.name)}"
        yield Finding("version-folder", folder, "a version has no leading zeros", fix)
    specific = model.config.version_policy.specific.versions
    for number in specific:
        if number not in model.versions:
            have = ", ".join(map(str, model.versions)) or "none"
            problem = f"version {number} is not there; the folders are {have}"
            field = "version_policy.specific.versions"
            yield model.at(
                "version-missing", field, problem, "add the folder, or remove the number"
            )
    if not model.served_versions and not specific:
        fix = f"make the folder {model.path / '1'}"
        if model.backend == ENSEMBLE:
            fix += ", which stays empty"
        problem = "it has no version folder that the version policy loads"
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
    elif file.suffix in _PARSERS and (problem := _unparsed(file)):
        yield Finding("model-file", file, f"{file.name} cannot be parsed: {problem}", "correct it")


def _unparsed(file: Path) -> str:
    """Why a JSON or XML file cannot be read; empty where it can."""
    try:
        _PARSERS[file.suffix](file.read_bytes())
    except (ValueError, ElementTree.ParseError, RecursionError) as error:
        return str(error)
    return ""


def check_ours(repository: Repository) -> Findings:
    """The models of this package in a repository; nothing where there are none."""
    yield from _hashes(repository)
    for name in repository.models:
        steps = [repository.models.get(f"{name}_{step}") for step in STEPS]
        if not all(steps):
            continue
        newest = {
            model.name: max(model.versions, default=0)
            for model in (*steps, repository.models[name])
            if model is not None
        }
        if len(set(newest.values())) > 1:
            found = ", ".join(f"{key} {version}" for key, version in newest.items())
            problem = f"the newest versions are {found}: answers mix two exports"
            fix = f"populate {name} again, or remove the incomplete version"
            yield Finding("versions-apart", repository.models[name].path, problem, fix)


def _hashes(repository: Repository) -> Findings:
    from ..serving.records import verify_repository

    try:
        verify_repository(repository.path)
    except DfvtError as error:
        yield Finding("manifest-hash", repository.path, str(error), "populate the model again")
