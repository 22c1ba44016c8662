"""A version of a model in a folder or an object store that another server reads or polls.

An object store has neither links nor renames, and changes one file at a time. So the files of the
version come first, in folders that no config names yet; then the configs of the steps, which load
the new version beside the live one; and last the config of the ensemble, whose single write makes
the new version live. A reader sees the old version or the new one at any moment.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, DfvtError, MissingDependency, StageFailed
from ..files import link_or_copy, staged
from ..progress import note
from . import layout
from .config import from_text, to_text
from .layout import CACHE, CONFIG, WARMUP


@dataclass(frozen=True)
class Target:
    """A repository in a folder, where `store` is None, or in an object store of fsspec."""

    url: str
    store: Any
    root: str

    def content(self, path: str) -> bytes | None:
        """The content of a file; None where there is no such file."""
        where = f"{self.root}/{path}"
        try:
            found: bytes = self.store.cat_file(where) if self.store else Path(where).read_bytes()
            return found
        except FileNotFoundError:
            return None

    def put(self, source: Path, path: str) -> None:
        """Write a file whole, unless it is there; StageFailed where another is read back."""
        wanted, where = source.read_bytes(), f"{self.root}/{path}"
        if self.content(path) == wanted:
            return
        if self.store:
            self.store.put_file(str(source), where)
        else:
            with staged(Path(where)) as temporary:
                temporary.write_bytes(wanted)
        if self.content(path) != wanted:
            raise StageFailed(
                f"{self.url}/{path} does not hold the {len(wanted):,} bytes of its file after it "
                "was written; run the command again"
            )


def target_of(url: str) -> Target:
    """The target that a URL or a path names. Raises BadInput for an unknown kind of URL or a file,
    MissingDependency where fsspec, or its package for this kind of URL, is not installed."""
    if "://" not in url:
        if Path(url).exists() and not Path(url).is_dir():
            raise BadInput(f"--to {url} is a file; give a folder")
        return Target(url, None, url)
    try:
        from fsspec.core import url_to_fs

        # Nothing remembered: another process may write there too.
        store, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ModuleNotFoundError:
        raise MissingDependency("fsspec", "remote") from None
    except ImportError as error:
        raise MissingDependency(str(error), "remote") from None
    except ValueError as error:
        raise BadInput(f"--to {url}: {error}; give s3://…, gs://… or a folder") from None
    return Target(url.rstrip("/"), store, root.rstrip("/"))


def upload(plain: Path, name: str, version: int, target: Target) -> None:
    """Make a version live in a target.

    plain: a repository with the version alone, see `plain_copy`. Its configs are changed.
    Raises BadInput where a live file there would be overwritten, or the configs of the steps differ
    from those of the live version in more than the version, StageFailed where the target cannot be
    written, or holds something else afterwards.
    """
    try:
        _upload(plain, name, version, target)
    except DfvtError:
        raise
    except Exception as error:  # each object store has exceptions of its own
        raise StageFailed(f"{target.url}: {type(error).__name__}: {error}") from error
    note(f"{name} version {version} is live in {target.url}")


def _upload(plain: Path, name: str, version: int, target: Target) -> None:
    ensemble = target.content(f"{name}/{CONFIG}")
    live = layout.live_version_in(ensemble.decode()) if ensemble else 0
    # Configs in a version's folder are records for people; Triton reads those of the models.
    configs = [plain / model / CONFIG for model in layout.model_names(name)]
    files = sorted(p for p in plain.rglob("*") if p.is_file() and p not in configs)
    if live:
        _load_beside(configs[:-1], version, live, target)
    for file in (*files, *configs):  # the config of the ensemble last
        path = file.relative_to(plain).as_posix()
        found = target.content(path) if live == version and file in files else None
        if found not in (None, file.read_bytes()):
            raise BadInput(
                f"{target.url}/{path} is another file, and version {version} is live there; "
                "populate a new version and promote that"
            )
        target.put(file, path)


def _load_beside(configs: list[Path], version: int, live: int, target: Target) -> None:
    """Let the steps' configs load the live version too, which the ensemble uses until the end."""
    for path in configs:
        where = f"{path.parent.name}/{CONFIG}"
        old = target.content(where)
        if old is None:
            raise BadInput(f"{target.url}/{where} is missing, and version {live} is live there")
        before, new = from_text(old.decode()), from_text(path.read_text(encoding="utf-8"))
        kept = {*before.version_policy.specific.versions} & {live, version}
        for config in (before, new):
            config.ClearField("version_policy")
        settings = to_text(before).replace(f".{live}.bytes", f".{version}.bytes")
        if settings != to_text(new):
            raise BadInput(
                f"the settings of {path.parent.name} are not those of version {live}, which is "
                f"live in {target.url}, so both cannot be loaded at once; populate with the same "
                "settings, or give another --to"
            )
        new.version_policy.specific.versions.extend(sorted({*kept, live, version}))
        path.write_text(to_text(new), encoding="utf-8")


def plain_copy(repository: Path, name: str, version: int, target: Path) -> None:
    """Make the four models with this version alone in `target`, with hard links if possible."""
    ignored = shutil.ignore_patterns(CACHE)
    for model, config in layout.config_files(name).items():
        source, folder = repository / model, target / model
        versions = source / str(version), folder / str(version)
        shutil.copytree(*versions, copy_function=link_or_copy, ignore=ignored)
        shutil.copyfile(repository / name / str(version) / config, folder / CONFIG)
        warmup = source / WARMUP / layout.warmup_file(version)
        if warmup.is_file():
            (folder / WARMUP).mkdir()
            link_or_copy(str(warmup), str(folder / WARMUP / warmup.name))
