"""Where things are in a model repository, which version of a model is live, and whether its files
are still those that were populated.

    <name>/live                    link to the live version's folder, such as `2`
    <name>/2/config.pbtxt          config of the ensemble in version 2
    <name>/2/<step>.pbtxt          configs of the steps in version 2
    <name>/2/version.json          how version 2 was made, and the hashes of its files
    <name>/config.pbtxt            link to live/config.pbtxt
    <name>_<step>/config.pbtxt     link to ../<name>/live/<step>.pbtxt
    <name>_<step>/2/               files of the step in version 2

The folder `<name>/2` is moved in last, so version 2 is whole where that folder is there. Replacing
`live` is one rename, so all four models change their version together.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ArtifactError, BadInput, StageFailed
from ..files import locked, sha256_of, sync
from ..manifest import MANIFEST, Count, FileName, Record, Sha256
from ..names import STEPS
from ..progress import warn
from ..types import Precision
from .backend_names import BackendName

CONFIG = "config.pbtxt"
LIVE = "live"

#: The folder of a model that Triton reads its warm-up data from.
WARMUP = "warmup"

#: The file of the record in the folder of an ensemble's version.
VERSION_RECORD = "version.json"

#: The folder in which Python keeps what it compiled.
CACHE = "__pycache__"


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


@contextmanager
def changing(repository: Path) -> Iterator[None]:
    """Make a repository and hold its lock while it changes; StageFailed where that fails."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with locked(repository):
            yield
    except OSError as error:
        raise StageFailed(f"{repository} cannot be written: {error}") from error


def config_files(name: str) -> dict[str, str]:
    """The config's file in a version's folder, by Triton model, the ensemble last."""
    return {**{f"{name}_{step}": f"{step}.pbtxt" for step in STEPS}, name: CONFIG}


def model_names(name: str) -> tuple[str, ...]:
    """The Triton models of one exported model, the ensemble last."""
    return tuple(config_files(name))


def version_folders(repository: Path, name: str, version: int) -> list[Path]:
    """The folders of one version of the four models."""
    return [repository / model / str(version) for model in model_names(name)]


def versions(repository: Path, name: str) -> list[int]:
    """The versions of a model that are whole, in order."""
    return sorted(_numbered(repository / name))


def live_version(repository: Path, name: str) -> int:
    """The version of a model that Triton loads; 0 where a repository does not hold the model."""
    config = repository / name / CONFIG
    if not config.is_file():
        return 0
    found = live_version_in(config.read_text(encoding="utf-8"))
    return found or max(versions(repository, name), default=0)


def live_version_in(config: str) -> int:
    """The version that the config of an ensemble uses; 0 where it names none."""
    found = re.search(r"model_version:\s*([1-9][0-9]*)", config)
    return int(found[1]) if found else 0


def warmup_image(repository: Path, name: str) -> bytes:
    """The encoded image that warms up the live version of a model."""
    version = live_version(repository, name)
    file = repository / f"{name}_preprocess" / WARMUP / warmup_file(version)
    return file.read_bytes()[4:]  # after its length


def warmup_file(version: int) -> str:
    """Name of the file, in the folder that Triton names, of a version's warm-up image."""
    return f"sample.{version}.bytes"


def ensembles(repository: Path) -> tuple[str, ...]:
    """Names of the models that `populate` made in a repository."""
    suffix = "_network"
    found = (p.parent.name.removesuffix(suffix) for p in repository.glob(f"*{suffix}/{CONFIG}"))
    return tuple(sorted(name for name in found if (repository / name / CONFIG).is_file()))


def models_of(repository: Path) -> list[str]:
    """Names of the folders with a model's config, with a warning of others; BadInput for none."""
    folders = sorted(p for p in repository.glob("*") if p.is_dir())
    models = [p.name for p in folders if (p / CONFIG).is_file()]
    if not models:
        command = shlex.join(["dfvt-deploy", "populate", "--repository", str(repository)])
        raise BadInput(f"{repository} holds no model; make one with: {command}")
    if left_out := [p.name for p in folders if p.name not in models]:
        warn(f"not served, for want of a {CONFIG}: {', '.join(left_out)}")
    return models


def make_live(repository: Path, name: str, version: int) -> None:
    """Make a version of the four models live with one rename."""
    folder = repository / name
    current = live_version(repository, name)
    if not (folder / LIVE).is_symlink():  # a first version, or a copy with files instead of links
        if (folder / LIVE).exists():
            shutil.rmtree(folder / LIVE)
        if current:
            _link(folder / LIVE, str(current))
    for model, file in config_files(name).items():
        link, target = repository / model / CONFIG, f"{LIVE}/{file}"
        target = target if model == name else f"../{name}/{target}"
        if not link.is_symlink() or str(link.readlink()) != target:
            _link(link, target)
    _link(folder / LIVE, str(version))


def remove_incomplete(repository: Path, name: str) -> None:
    """Remove what a failed or killed `populate` did not finish; the caller holds the lock."""
    whole = versions(repository, name)
    for folder in (repository / model for model in model_names(name)):
        for number in set(_numbered(folder)).difference(whole):
            shutil.rmtree(folder / str(number))
        for image in (folder / WARMUP).glob("*"):
            if image.name not in map(warmup_file, whole):
                image.unlink()
        for link in filter(Path.is_symlink, folder.glob(".*.part")):
            link.unlink()
        for empty in (folder / WARMUP, folder):
            with suppress(OSError):  # it is not empty, or not there
                empty.rmdir()


def _link(path: Path, target: str) -> None:
    """Make or replace a link with one rename; the caller holds the repository's lock."""
    staged = path.with_name(f".{path.name}.part")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(path)
    sync(path.parent)


def _numbered(directory: Path) -> list[int]:
    names = [p.name for p in directory.glob("*") if p.is_dir()]
    return [int(name) for name in names if re.fullmatch(r"[1-9]\d*", name)]


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
            if path.is_file() and path.suffix != ".pbtxt" and path.name != VERSION_RECORD:
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
        folders = version_folders(repository, name, version)
        if any((folder / MANIFEST).exists() for folder in folders):  # else another's, called alike
            verify_version(repository, name, version)


def verify_version(repository: Path, name: str, version: int) -> None:
    """Raise ArtifactError where a file of a version is missing, was changed, or was added."""
    recorded = read_version(repository, name, version).files
    found = hashes(repository, name, version)
    for path, _ in sorted(recorded.items() ^ found.items()):
        where = repository / path
        if path not in found:
            raise ArtifactError(f"{where} is missing; populate again")
        if path not in recorded:
            raise ArtifactError(
                f"{where} was not there when {name} was populated; remove it, or populate again"
            )
        raise ArtifactError(
            f"{where} is not the file that was populated: its SHA-256 is not the one in "
            f"{VERSION_RECORD}; populate again"
        )


def refuse_rtx_plans(repository: Path, server: str) -> None:
    """Raise BadInput where a live version has a TensorRT-RTX plan, which only the embedded server
    loads, and not the one that `server` names."""
    for name in ensembles(repository):
        version = live_version(repository, name)
        for plan in (repository / f"{name}_network" / str(version)).glob("*.rtx.plan"):
            raise BadInput(
                f"{plan} is a TensorRT-RTX plan, which the tensorrt backend of {server} does not "
                "load; populate with the plans of TensorRT, or serve it with the embedded server"
            )
