"""A model repository as Triton reads it: folders are models, numbered folders versions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

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

    parsed: its config with the lines of all fields; an empty message where there is no config.
    has_config: whether a config.pbtxt was found and could be read as protobuf text.
    versions: version numbers with their folders, in order.
    ignored: folders that Triton does not take for versions.
    findings: what was wrong while reading.
    """

    path: Path
    parsed: ParsedText
    has_config: bool = False
    versions: dict[int, Path] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Any:
        """The `ModelConfig` message."""
        return self.parsed.message

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG

    @cached_property
    def backend(self) -> str:
        """The backend as Triton completes it: from `backend`, `platform` or the files' names."""
        config = self.config
        if config.platform == ENSEMBLE or config.HasField("ensemble_scheduling"):
            return ENSEMBLE
        if config.backend:
            return str(config.backend)
        if config.platform in PLATFORMS:
            return PLATFORMS[config.platform]
        if config.platform:
            return ""
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
        """A finding about a field of the config."""
        line = self.parsed.line(field_path)
        return Finding(rule, self.config_path, problem, fix, line, field_path)


@dataclass(frozen=True)
class Repository:
    """The models of one repository by name."""

    path: Path
    models: dict[str, ModelFolder]


def read_repository(path: Path) -> Repository:
    """Read every model folder. Nothing is loaded or executed."""
    folders = sorted(p for p in path.iterdir() if p.is_dir())
    return Repository(path, {p.name: _read_model(p) for p in folders})


def is_model_folder(path: Path) -> bool:
    """Whether a folder is a model rather than a repository of models."""
    return (path / CONFIG).is_file() or any(_is_version(p) for p in path.iterdir() if p.is_dir())


def _read_model(path: Path) -> ModelFolder:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    model = ModelFolder(path, ParsedText(ModelConfig()))
    folders = [p for p in path.iterdir() if p.is_dir()]
    model.versions = dict(sorted((int(p.name), p) for p in folders if _is_version(p)))
    model.ignored = sorted(p for p in folders if re.fullmatch(r"0\d+", p.name))
    config = model.config_path
    if not config.is_file():
        # Then the rest is checked as of an empty config.
        model.has_config = bool(model.versions) and model.completes
        return model
    try:
        if config.stat().st_size > _MAX_CONFIG_BYTES:
            raise SyntaxProblem(0, f"the file has more than {_MAX_CONFIG_BYTES:,} bytes")
        text = config.read_text(encoding="utf-8", errors="replace")  # comments may hold anything
        model.parsed = parse_text(text, ModelConfig())
    except SyntaxProblem as error:
        found = Finding("config-syntax", config, str(error), "correct the text", error.line)
        model.findings.append(found)
    else:
        model.has_config = True
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


def enum_name(message: Any, field_name: str) -> str:
    """The word of a message's enum field; its number where the schema has none for it."""
    number = getattr(message, field_name)
    words = message.DESCRIPTOR.fields_by_name[field_name].enum_type.values_by_number
    return str(words[number].name if number in words else number)
