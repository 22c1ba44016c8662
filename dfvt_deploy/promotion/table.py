"""`versions`: the versions of a repository, and the removal of old ones."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StageFailed
from ..files import locked
from ..serving.history import Change, passed, previous_version, read_history, verdicts_on
from ..serving.layout import live_version, remove_incomplete, version_folders
from ..serving.layout import (
    versions as whole_versions,
)
from ..serving.records import read_version, require_models
from ..serving.repository import staging_beside
from .options import VersionsOptions


@dataclass(frozen=True)
class VersionRow:
    """One version of a model.

    previous: whether `rollback` would return to it.
    verdict: `passed`, else the verdict or `none` of the first file that did not pass.
    bytes: size of its files.
    change: the change that made it live last; None where it never was by a recorded one.
    """

    model: str
    version: int
    live: bool
    previous: bool
    created: str
    backend: str
    precision: str
    verdict: str
    bytes: int
    change: Change | None


def versions(model: str | None = None, **fields: Any) -> list[VersionRow]:
    """The versions of one model or of all, after old ones were removed where `prune` asks for it;
    `fields` are the other fields of `VersionsOptions`.

    Raises BadInput where there is no such repository or model, ArtifactError where a version's
    record is damaged, StageFailed where a version cannot be removed.
    """
    return versions_with(VersionsOptions(model=model, **fields))


def versions_with(options: VersionsOptions) -> list[VersionRow]:
    """`versions` with its options as one object."""
    repository = options.repository
    found = require_models(repository, options.model)
    if options.prune is not None and options.model is not None:
        _prune(repository, options.model, options.prune, options.prune_previous)
    names = [options.model] if options.model else found
    with locked(repository, shared=True):
        return [row for name in names for row in _rows(repository, name)]


def _rows(repository: Path, name: str) -> list[VersionRow]:
    live, previous = live_version(repository, name), previous_version(repository, name)
    changes = read_history(repository, name)
    rows = []
    for version in whole_versions(repository, name):
        record = read_version(repository, name, version)
        verdicts = verdicts_on(repository, name, version)
        change = next((c for c in reversed(changes) if c.version == version), None)
        if change and not passed(verdicts):
            verdicts = change.verdicts or verdicts
        open_ones = [v for v in verdicts.values() if v is None or v.verdict != "passed"]
        verdict = "passed" if passed(verdicts) else "none"
        if open_ones and open_ones[0]:
            verdict = open_ones[0].verdict
        files = (f for each in version_folders(repository, name, version) for f in each.rglob("*"))
        rows.append(
            VersionRow(
                model=name,
                version=version,
                live=version == live,
                previous=version == previous,
                created=record.created,
                backend=record.backend,
                precision=record.precision,
                verdict=verdict,
                bytes=sum(f.stat().st_size for f in files if f.is_file()),
                change=change,
            )
        )
    return rows


def _prune(repository: Path, name: str, keep: int, previous: bool) -> None:
    try:
        with locked(repository):
            kept = {*whole_versions(repository, name)[-keep:], live_version(repository, name)}
            if not previous:
                kept.add(previous_version(repository, name))
            old = [v for v in whole_versions(repository, name) if v not in kept]
            with staging_beside(repository, name) as staging:
                for version in old:
                    # Without the ensemble's folder the version is not whole, and
                    # `remove_incomplete` removes the rest, now or after a kill.
                    (repository / name / str(version)).rename(staging / str(version))
                remove_incomplete(repository, name)
                shutil.rmtree(staging)
    except OSError as error:
        raise StageFailed(f"{repository} cannot be written: {error}") from error
