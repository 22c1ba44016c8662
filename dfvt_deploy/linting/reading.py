"""A model repository as Triton reads it: folders are models, numbered folders versions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .pbtxt import ParsedText, SyntaxProblem, parse_text
from .rules import Finding

CONFIG = "config.pbtxt"

ENSEMBLE = "ensemble"

#: The file that a platform or a backend loads where the config names none.
DEFAULT_FILES = {
    "tensorflow_savedmodel": "model.savedmodel",
    "tensorflow_graphdef": "model.graphdef",
    "tensorrt": "model.plan",
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "torch_aoti": "model.pt2",
    "pytorch": "model.pt",
    "python": "model.py",
    "vllm": "model.json",
}

#: What `platform` says for a backend; an old way to name it.
PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_graphdef": "tensorflow",
    "tensorflow_savedmodel": "tensorflow",
}

#: Backends that never ask a model for its tensors.
_COMPLETE_NOTHING = ("", "pytorch", ENSEMBLE)

_LFS = b"version https://git-lfs.github.com/spec/"

#: Files of this size and more are not read as text.
_MAX_CONFIG_BYTES = 2**20


@dataclass
class ModelFolder:
    """One model of a repository.

    config: its `ModelConfig` message, which is empty where there is no config.
    versions: version numbers with their folders, in order.
    ignored: folders that Triton does not take for versions.
    parsed: the lines of the config's fields, and what was wrong while reading.
    has_config: whether a config.pbtxt was found and could be read as protobuf text.
    """

    path: Path
    config: Any
    versions: dict[int, Path]
    ignored: list[Path]
    parsed: ParsedText
    has_config: bool = True

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def backend(self) -> str:
        """The backend as Triton completes it: from `backend`, `platform` or the files' names."""
        config = self.config
        if config.platform == ENSEMBLE or config.HasField("ensemble_scheduling"):
            return ENSEMBLE
        if config.backend or config.platform:
            return str(config.backend or PLATFORMS.get(config.platform, ""))
        files = [p.name for path in list(self.versions.values())[:1] for p in path.iterdir()]
        for kind, name in DEFAULT_FILES.items():
            if kind != "vllm" and name in (config.default_model_filename, *files):
                return PLATFORMS.get(kind, kind)
        return self.name.partition(".")[2]  # as in model.identity

    @cached_property
    def completes(self) -> bool:
        """Whether Triton asks the model for tensors that the config lacks. A model.py answers with
        `auto_complete_config`, which may stand in a module that it imports."""
        if self.backend != "python":
            return self.backend not in _COMPLETE_NOTHING
        texts = [file.read_bytes() for file in self.model_files() if file.is_file()]
        return any(
            b"auto_complete_config" in text or b"class TritonPythonModel" not in text
            for text in texts
        )

    @property
    def batched(self) -> bool:
        return bool(self.config.max_batch_size > 0)

    @cached_property
    def served_versions(self) -> dict[int, Path]:
        """The versions that the version policy loads; by default the latest one."""
        policy = self.config.version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "all":
            return self.versions
        if kind == "specific":
            wanted = set(policy.specific.versions)
            return {n: path for n, path in self.versions.items() if n in wanted}
        count = policy.latest.num_versions if kind == "latest" else 1
        return dict(list(self.versions.items())[max(len(self.versions) - count, 0) :])

    def model_files(self) -> list[Path]:
        """The files that the backend loads from the served versions, existing or not."""
        config = self.config
        names = [config.default_model_filename, *config.cc_model_filenames.values()]
        if not any(names) and not config.runtime:
            names = [DEFAULT_FILES.get(config.platform) or DEFAULT_FILES.get(self.backend, "")]
        chosen = dict.fromkeys(name for name in names if name)
        files = [path / name for path in self.served_versions.values() for name in chosen]
        if self.backend != "onnxruntime":
            return files
        return [file / "model.onnx" if file.is_dir() else file for file in files]

    def at(self, rule: str, field_path: str, problem: str, fix: str) -> Finding:
        """A finding about a field of the config, with its line or that of the closest one around
        it."""
        lines, written = self.parsed.lines, field_path
        while written and written not in lines:
            written = written.rpartition(".")[0]
        return Finding(rule, self.parsed.file, problem, fix, lines.get(written, 0), field_path)


@dataclass(frozen=True)
class Repository:
    """The models of a repository by name. `folder` is what was asked for: all of the repository, or
    the folder of one model."""

    path: Path
    folder: Path
    models: dict[str, ModelFolder]

    @property
    def checked(self) -> list[ModelFolder]:
        """The models that were asked for."""
        return [m for m in self.models.values() if self.folder in (self.path, m.path)]


def read_repository(folder: Path) -> Repository:
    """Read every model of a repository, also where only the folder of one model is asked for.
    Nothing is loaded or executed. Raises BadInput where there is no such folder."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is not a folder; give a model repository or a model's folder")
    if is_model_folder(folder):
        folder = folder.resolve()
        path = folder.parent
    else:
        path = folder
    folders = sorted(p for p in path.iterdir() if p.is_dir())
    return Repository(path, folder, {p.name: _read_model(p) for p in folders})


def is_model_folder(path: Path) -> bool:
    """Whether a folder is a model rather than a repository of models."""
    return (path / CONFIG).is_file() or any(_is_version(p) for p in path.iterdir() if p.is_dir())


def _read_model(path: Path) -> ModelFolder:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    file, folders = path / CONFIG, [p for p in path.iterdir() if p.is_dir()]
    model = ModelFolder(
        path,
        ModelConfig(),
        versions=dict(sorted((int(p.name), p) for p in folders if _is_version(p))),
        ignored=sorted(p for p in folders if re.fullmatch(r"0\d+", p.name)),
        parsed=ParsedText(file),
    )
    if not file.is_file():
        # Then the rest is checked as of an empty config.
        model.has_config = bool(model.versions) and model.completes
        return model
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise SyntaxProblem(0, f"the file has more than {_MAX_CONFIG_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8", errors="replace")  # comments may hold anything
        model.parsed = parse_text(text, model.config, file)
    except SyntaxProblem as error:
        line, problem = error.args
        found = Finding("config-syntax", file, problem, "correct the text", line)
        model.parsed.findings.append(found)
        model.has_config = False
    return model


def _is_version(folder: Path) -> bool:
    return re.fullmatch(r"0|[1-9]\d{0,17}", folder.name) is not None


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is what Git LFS leaves where the file itself was not fetched."""
    with file.open("rb") as content:
        return content.read(len(_LFS)) == _LFS


def is_filled(file: Path) -> bool:
    """Whether a model file is there with something to read in it."""
    return file.is_file() and file.stat().st_size > 0 and not is_lfs_pointer(file)


def dims_text(dims: Sequence[int]) -> str:
    """Dimensions as the config writes them, such as `[ 3, 224, 224 ]`."""
    return f"[ {', '.join(map(str, dims))} ]"


def dims_fit(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two shapes may be of one tensor; -1 in either stands for any size."""
    same = (a == b or -1 in (a, b) for a, b in zip(first, second, strict=False))
    return len(first) == len(second) and all(same)


def enum_name(message: Any, field_name: str) -> str:
    """The word of a message's enum field; its number where the schema has none for it."""
    number = getattr(message, field_name)
    words = message.DESCRIPTOR.fields_by_name[field_name].enum_type.values_by_number
    return str(words[number].name if number in words else number)
