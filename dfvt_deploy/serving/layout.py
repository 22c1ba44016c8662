"""Where things are in a model repository, and which version of a model is live.

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
from pathlib import Path

from ..errors import BadInput
from ..files import sync
from ..names import STEPS
from ..progress import warn

CONFIG = "config.pbtxt"
LIVE = "live"

#: The folder of a model that Triton reads its warm-up data from.
WARMUP = "warmup"


def model_names(name: str) -> tuple[str, ...]:
    """The Triton models of one exported model, the ensemble last."""
    return (*(f"{name}_{step}" for step in STEPS), name)


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
    """Names of the folders that hold a model's config, with a warning of others; BadInput for
    none."""
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
    targets = {f"{name}_{step}": f"../{name}/{LIVE}/{step}.pbtxt" for step in STEPS}
    for model, target in {**targets, name: f"{LIVE}/{CONFIG}"}.items():
        link = repository / model / CONFIG
        if not link.is_symlink() or str(link.readlink()) != target:
            _link(link, target)
    _link(folder / LIVE, str(version))


def remove_incomplete(repository: Path, name: str) -> None:
    """Remove versions that a killed `populate` did not finish; the caller holds the lock."""
    whole = versions(repository, name)
    for model in model_names(name):
        for number in _numbered(repository / model):
            if number not in whole:
                shutil.rmtree(repository / model / str(number))
        for image in (repository / model / WARMUP).glob("*"):
            if image.name not in map(warmup_file, whole):
                image.unlink()
        for link in (repository / model).glob(".*.part"):
            if link.is_symlink():
                link.unlink()


def _link(path: Path, target: str) -> None:
    """Make or replace a link with one rename; the caller holds the repository's lock."""
    staged = path.with_name(f".{path.name}.part")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(path)
    sync(path.parent)


def _numbered(directory: Path) -> list[int]:
    if not directory.is_dir():
        return []
    names = [p.name for p in directory.iterdir() if p.is_dir()]
    return [int(name) for name in names if re.fullmatch(r"[1-9]\d*", name)]
