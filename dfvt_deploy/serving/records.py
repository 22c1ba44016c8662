"""The record of one version of a served model, and whether its files are still those."""

from pathlib import Path

from ..errors import ArtifactError, BadInput
from ..files import sha256_of
from ..manifest import MANIFEST, Count, FileName, Record, Sha256
from ..types import Precision
from .backend_names import BackendName
from .layout import ensembles, live_version, model_names, version_folders

#: The file of the record in the folder of an ensemble's version.
VERSION_RECORD = "version.json"

#: The folder in which Python keeps what it compiled.
CACHE = "__pycache__"

#: Settings, which may be changed by hand.
_SETTINGS = ".pbtxt"


class VersionRecord(Record):
    """How one version was made. `command` makes it again; `files` are the hashes of the files of
    the four models' version folders, the configs not among them, by their paths in the repository.
    """

    name: FileName
    version: Count
    created: str
    command: str
    backend: BackendName
    precision: Precision
    fast_decode: bool = False
    files: dict[str, Sha256]


def hashes(repository: Path, name: str, version: int) -> dict[str, str]:
    """Hashes of the files of a version by their path in the repository, without the configs and
    what Python compiled, which `serve` does not use."""
    found = {}
    for folder in version_folders(repository, name, version):
        for path in (folder.parent, folder, *sorted(folder.rglob("*"))):
            if CACHE in path.parts:
                continue
            if path.is_symlink():
                raise ArtifactError(f"{path} is a symbolic link; populate again")
            if path.is_file() and path.suffix != _SETTINGS and path.name != VERSION_RECORD:
                found[path.relative_to(repository).as_posix()] = sha256_of(path)
    return found


def read_version(repository: Path, name: str, version: int) -> VersionRecord:
    """The record of a version. Raises ArtifactError where it is missing or damaged."""
    path = repository / name / str(version) / VERSION_RECORD
    return VersionRecord.read(path, "populate again")


def require_models(repository: Path, name: str | None = None) -> tuple[str, ...]:
    """Names of the models that `populate` made in a repository, live or not. Raises BadInput where
    there is no repository, or `name` is not among them."""
    if not repository.is_dir():
        raise BadInput(
            f"{repository} is not a folder; make a repository with: dfvt-deploy populate"
        )
    records = repository.glob(f"*/[1-9]*/{VERSION_RECORD}")
    found = tuple(sorted({path.parent.parent.name for path in records}))
    if name is not None and name not in found:
        listed = ", ".join(found) or "none"
        raise BadInput(f"{repository} has no model {name!r} made by populate; it has {listed}")
    return found


def verify_repository(repository: Path) -> None:
    """Compare the files of every live version that `populate` made with their record: the network,
    the code that runs in the server, the labels. Raises ArtifactError as `verify_version` does."""
    for name in ensembles(repository):
        version = live_version(repository, name)
        if not any(
            (folder / MANIFEST).exists() for folder in version_folders(repository, name, version)
        ):
            continue  # another's models that are called alike
        verify_version(repository, name, version)


def verify_version(repository: Path, name: str, version: int) -> None:
    """Raise ArtifactError where a file of a version is missing, was changed, or was added."""
    recorded = read_version(repository, name, version).files
    found = hashes(repository, name, version)
    for path in sorted({*recorded, *found}):
        if path not in found:
            raise ArtifactError(f"{repository / path} is missing; populate again")
        if path not in recorded:
            raise ArtifactError(
                f"{repository / path} was not there when {name} was populated; remove it, or "
                "populate again"
            )
        if recorded[path] != found[path]:
            raise ArtifactError(
                f"{repository / path} is not the file that was populated: its SHA-256 is not "
                f"the one in {VERSION_RECORD}; populate again"
            )


def rtx_plans(repository: Path) -> list[Path]:
    """The TensorRT-RTX plans of live versions, which NVIDIA's `tensorrt` backend does not load."""
    found = (
        (repository / model_names(name)[1] / str(live_version(repository, name))).glob("*.rtx.plan")
        for name in ensembles(repository)
    )
    return sorted(path for paths in found for path in paths)
