"""A version of a model in a folder or an object store that another server reads or polls.

An object store has neither links nor renames, and changes one file at a time. So the files of the
version come first, in folders that no config names yet; then the configs of the steps, which load
the new version beside the live one; and last the config of the ensemble, whose single write makes
the new version live. A reader sees the old version or the new one at any moment.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadInput, DfvtError, MissingDependency, StageFailed
from ..files import link_or_copy, sha256_of, staged
from ..progress import note
from . import layout
from .layout import CACHE, CONFIG, WARMUP


@dataclass(frozen=True)
class Target:
    """A repository in a folder, where `store` is None, or in an object store of fsspec."""

    url: str
    store: Any
    root: str

    def content(self, path: str) -> bytes | None:
        """The content of a small file; None where there is no such file."""
        where = f"{self.root}/{path}"
        if self.store is None:
            return Path(where).read_bytes() if Path(where).is_file() else None
        return self.store.cat_file(where) if self.store.exists(where) else None

    def sha256(self, path: str) -> tuple[int, str] | None:
        """Size and SHA-256 of a file, read back; None where there is no such file."""
        where = f"{self.root}/{path}"
        if self.store is None:
            file = Path(where)
            return (file.stat().st_size, sha256_of(file)) if file.is_file() else None
        if not self.store.exists(where):
            return None
        digest, size = hashlib.sha256(), 0
        with self.store.open(where, "rb") as stream:
            while chunk := stream.read(2**22):
                digest.update(chunk)
                size += len(chunk)
        return size, digest.hexdigest()

    def put(self, source: Path, path: str) -> None:
        """Write a file whole, unless it is there; StageFailed where another is read back."""
        wanted = source.stat().st_size, sha256_of(source)
        if self.sha256(path) == wanted:
            return
        where = f"{self.root}/{path}"
        if self.store is None:
            with staged(Path(where)) as temporary:
                shutil.copyfile(source, temporary)
        else:
            self.store.put_file(str(source), where)
        if (found := self.sha256(path)) != wanted:
            raise StageFailed(
                f"{self.url}/{path} holds (bytes, SHA-256) {found} after it was written, not "
                f"{wanted}; run the command again"
            )


def target_of(url: str) -> Target:
    """The target that a URL or a path names. Raises BadInput where the kind of URL is unknown, or
    the path is a file, MissingDependency where fsspec, or its package for this kind of URL, is not
    installed."""
    if "://" not in url:
        if Path(url).exists() and not Path(url).is_dir():
            raise BadInput(f"--to {url} is a file; give a folder")
        return Target(url, None, url)
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise MissingDependency("fsspec", "remote") from None
    try:
        # Nothing remembered: another process may write there too.
        store, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise MissingDependency(str(error), "remote") from None
    except ValueError as error:
        raise BadInput(f"--to {url}: {error}; give s3://…, gs://… or a folder") from None
    return Target(url.rstrip("/"), store, root.rstrip("/"))


def upload(plain: Path, name: str, version: int, target: Target) -> None:
    """Make a version live in a target.

    plain: a repository with the version alone, see `plain.plain_copy`. Its configs are changed.
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
    files = sorted(p for p in plain.rglob("*") if p.is_file() and p.name != CONFIG)
    # Configs in a version's folder are records for people; Triton reads those of the models.
    configs = [plain / model / CONFIG for model in layout.model_names(name)]
    files += sorted(p for p in plain.rglob(CONFIG) if p not in configs)
    if live:
        _load_beside(configs[:-1], version, live, target)
    for file in files:
        path = file.relative_to(plain).as_posix()
        if live == version:
            there = target.sha256(path)
            if there not in (None, (file.stat().st_size, sha256_of(file))):
                raise BadInput(
                    f"{target.url}/{path} is another file, and version {version} is live there; "
                    "populate a new version and promote that"
                )
        target.put(file, path)
    for config in configs:  # that of the ensemble last
        target.put(config, config.relative_to(plain).as_posix())


def _load_beside(configs: list[Path], version: int, live: int, target: Target) -> None:
    """Let the steps' configs load the live version too, which the ensemble uses until the end."""
    from .config import from_text, to_text

    for path in configs:
        where = f"{path.parent.name}/{CONFIG}"
        old = target.content(where)
        if old is None:
            raise BadInput(f"{target.url}/{where} is missing, and version {live} is live there")
        before, new = from_text(old.decode()), from_text(path.read_text(encoding="utf-8"))
        kept = {*before.version_policy.specific.versions} & {live, version}
        for config in (before, new):
            config.ClearField("version_policy")
        same = to_text(before).replace(f".{live}.bytes", "") == to_text(new).replace(
            f".{version}.bytes", ""
        )
        if not same:
            raise BadInput(
                f"the settings of {path.parent.name} are not those of version {live}, which is "
                f"live in {target.url}, so both cannot be loaded at once; populate with the same "
                "settings, or give another --to"
            )
        new.version_policy.specific.versions.extend(sorted({*kept, live, version}))
        path.write_text(to_text(new), encoding="utf-8")


def plain_copy(repository: Path, name: str, version: int, target: Path) -> None:
    """Make the four models with this version alone in `target`, with hard links if possible."""
    ignored, sources = (
        shutil.ignore_patterns(CACHE),
        layout.version_folders(repository, name, version),
    )
    for model, source in zip(layout.model_names(name), sources, strict=True):
        folder = target / model
        shutil.copytree(source, folder / str(version), copy_function=link_or_copy, ignore=ignored)
        step = model.removeprefix(name).removeprefix("_")
        config = f"{step}.pbtxt" if step else CONFIG
        shutil.copyfile(repository / name / str(version) / config, folder / CONFIG)
        warmup = repository / model / WARMUP / layout.warmup_file(version)
        if warmup.is_file():
            (folder / WARMUP).mkdir()
            link_or_copy(str(warmup), str(folder / WARMUP / warmup.name))
