"""`versions`, `promote` and `rollback`: which version of a model is live, and another made live."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, GateFailed
from ..files import locked
from ..linting.rules import RULES
from ..linting.run import lint
from ..manifest import Verdict
from ..options import from_fields
from ..serving import history, layout
from ..serving.remote import plain_copy, target_of, upload
from ..serving.repository import staging_beside
from .options import PromoteOptions, RollbackOptions, VersionsOptions


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
    change: history.Change | None


@from_fields(VersionsOptions, "model")
def versions(options: VersionsOptions) -> list[VersionRow]:
    """The versions of one model or of all, after old ones were removed where `prune` asks for it.
    Raises BadInput where there is no such repository or model, ArtifactError where a version's
    record is damaged, StageFailed where a version cannot be removed."""
    repository = options.repository
    found = layout.require_models(repository, options.model)
    if options.prune is not None and options.model is not None:
        _prune(repository, options.model, options.prune, options.prune_previous)
    names = [options.model] if options.model else found
    with locked(repository, shared=True):
        return [row for name in names for row in _rows(repository, name)]


def _rows(repository: Path, name: str) -> list[VersionRow]:
    live = layout.live_version(repository, name)
    previous = history.previous_version(repository, name)
    last = {change.version: change for change in history.read_history(repository, name)}
    rows = []
    for version in layout.versions(repository, name):
        record = layout.read_version(repository, name, version)
        verdicts = history.verdicts_on(repository, name, version)
        change = last.get(version)
        if change and not history.passed(verdicts):
            verdicts = change.verdicts or verdicts
        words = [v.verdict if v else "none" for v in verdicts.values()] or ["none"]
        folders = layout.version_folders(repository, name, version)
        files = (file for folder in folders for file in folder.rglob("*"))
        rows.append(
            VersionRow(
                model=name,
                version=version,
                live=version == live,
                previous=version == previous,
                created=record.created,
                backend=record.backend,
                precision=record.precision,
                verdict=next((word for word in words if word != "passed"), "passed"),
                bytes=sum(f.stat().st_size for f in files if f.is_file()),
                change=change,
            )
        )
    return rows


def _prune(repository: Path, name: str, keep: int, previous: bool) -> None:
    with layout.changing(repository):
        there = layout.versions(repository, name)
        kept = {*there[-keep:], layout.live_version(repository, name)}
        if not previous:
            kept.add(history.previous_version(repository, name))
        with staging_beside(repository, name) as staging:
            for version in (v for v in there if v not in kept):
                # Without the ensemble's folder the version is not whole, and
                # `remove_incomplete` removes the rest, now or after a kill.
                (repository / name / str(version)).rename(staging / str(version))
            layout.remove_incomplete(repository, name)
            shutil.rmtree(staging)


@from_fields(PromoteOptions, "model")
def promote(options: PromoteOptions) -> history.Change:
    """Make a version of a model live, with all its steps at once. Raises BadInput where there is no
    such model or version, or `lint` finds an error in it, ArtifactError where a file was changed
    since it was populated, GateFailed where a file of the network has no passing verdict,
    StageFailed where the repository or the target cannot be written."""
    repository, name = options.repository, options.model
    layout.require_models(repository, name)
    target = target_of(options.to) if options.to else None
    with layout.changing(repository), staging_beside(repository, name) as staging:
        there = layout.versions(repository, name)
        version = options.version or max(there)
        if version not in there:
            found = ", ".join(map(str, there)) or "none"
            raise BadInput(f"{name} has no version {version}; it has {found}")
        layout.verify_version(repository, name, version)
        verdicts = history.verdicts_on(repository, name, version, options.exports)
        if not (options.unvalidated or history.passed(verdicts)):
            raise _without_verdict(name, version, verdicts)
        plain_copy(repository, name, version, staging)
        errors = [
            f"{f.rule}: {f.path.relative_to(staging)}:{f.line}: {f.problem}; {f.fix}"
            for f in lint(staging).findings
            if RULES[f.rule].severity == "error"
        ]
        if errors:
            raise BadInput(f"lint refuses {name} version {version}:", *errors)
        change = history.go_live(
            repository, name, version, "promote", reason=options.reason, verdicts=verdicts
        )
        if target:
            upload(staging, name, version, target)
        return change


@from_fields(RollbackOptions, "model")
def rollback(options: RollbackOptions) -> history.Change:
    """Make the version live again that was live before; each call goes one version further back.
    Neither verdict nor `lint` is asked, but the files must be those that were live. Raises BadInput
    where there is no such model, or no earlier version of it was live, ArtifactError where that was
    changed since, StageFailed where the repository cannot be written."""
    repository, name, reason = options.repository, options.model, options.reason
    layout.require_models(repository, name)
    with layout.changing(repository):
        version = history.previous_version(repository, name)
        if not version:
            found = ", ".join(map(str, layout.versions(repository, name))) or "none"
            live = layout.live_version(repository, name)
            raise BadInput(
                f"no version of {name} was live before version {live}; choose one of {found} "
                "with: dfvt-deploy promote"
            )
        layout.verify_version(repository, name, version)
        changes = reversed(history.read_history(repository, name))
        before = next((c for c in changes if c.version == version and c.action != "found"), None)
        if before and before.sha256 != history.version_hash(repository, name, version):
            raise BadInput(
                f"the configs of {name} version {version} were changed since it was live; "
                f"look at them, then run: dfvt-deploy promote {name} --version {version}"
            )
        verdicts = before.verdicts if before else history.verdicts_on(repository, name, version)
        return history.go_live(
            repository, name, version, "rollback", reason=reason, verdicts=verdicts
        )


def _without_verdict(name: str, version: int, verdicts: dict[str, Verdict | None]) -> GateFailed:
    lines = [
        f"{file}: {v.verdict}, on {v.images:,} images of {v.dataset} ({v.report})"
        if v
        else f"{file}: never validated"
        for file, v in verdicts.items()
    ]
    fast = " --fast-decode" if any(file.endswith(".fast-decode") for file in verdicts) else ""
    return GateFailed(
        f"{name} version {version} has no passing verdict; run dfvt-deploy validate {name}{fast}, "
        "or give --unvalidated --reason WHY",
        *lines,
    )
