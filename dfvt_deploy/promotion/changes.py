"""`promote` and `rollback`: another version of a model becomes live, with all its steps at once."""

from pathlib import Path
from typing import Any

from ..errors import BadInput, GateFailed, StageFailed
from ..files import locked
from ..linting.rules import RULES
from ..linting.run import lint
from ..manifest import Verdict
from ..serving.history import (
    Change,
    go_live,
    passed,
    previous_version,
    read_history,
    verdicts_on,
    version_hash,
)
from ..serving.layout import live_version, versions
from ..serving.records import require_models, verify_version
from ..serving.remote import plain_copy, target_of, upload
from ..serving.repository import staging_beside
from .options import PromoteOptions, RollbackOptions


def promote(model: str, **fields: Any) -> Change:
    """Make a version of a model live, with all its steps at once; `fields` are those of
    `PromoteOptions`.

    Raises BadInput where there is no such model or version, or `lint` finds an error in it,
    ArtifactError where a file was changed since it was populated, GateFailed where a file of the
    network has no passing verdict, StageFailed where the repository or the target cannot be
    written.
    """
    return promote_with(PromoteOptions(model=model, **fields))


def promote_with(options: PromoteOptions) -> Change:
    """`promote` with its options as one object."""
    repository, name = options.repository, options.model
    require_models(repository, name)
    target = target_of(options.to) if options.to else None
    try:
        with locked(repository), staging_beside(repository, name) as staging:
            there = versions(repository, name)
            version = options.version or max(there)
            if version not in there:
                raise BadInput(f"{name} has no version {version}; it has {_listed(there)}")
            verify_version(repository, name, version)
            verdicts = verdicts_on(repository, name, version, options.exports)
            _check_verdicts(name, version, verdicts, options.unvalidated)
            plain_copy(repository, name, version, staging)
            _check_lint(staging, name, version)
            change = _live_or_recorded(options, version, verdicts)
            if target:
                upload(staging, name, version, target)
            return change
    except OSError as error:
        raise StageFailed(f"{options.to or repository} cannot be written: {error}") from error


def rollback(model: str, **fields: Any) -> Change:
    """Make the version live again that was live before; each call goes one version further back.
    `fields` are those of `RollbackOptions`.

    Neither verdict nor `lint` is asked, but the files must be those that were live. Raises BadInput
    where there is no such model, or no earlier version of it was live, ArtifactError where that was
    changed since, StageFailed where the repository cannot be written.
    """
    return rollback_with(RollbackOptions(model=model, **fields))


def rollback_with(options: RollbackOptions) -> Change:
    """`rollback` with its options as one object."""
    repository, name = options.repository, options.model
    require_models(repository, name)
    try:
        with locked(repository):
            version = previous_version(repository, name)
            if not version:
                raise BadInput(
                    f"no version of {name} was live before version "
                    f"{live_version(repository, name)}; choose one of "
                    f"{_listed(versions(repository, name))} with: dfvt-deploy promote"
                )
            verify_version(repository, name, version)
            changes = read_history(repository, name)
            before = next(
                (c for c in reversed(changes) if c.version == version and c.action != "found"),
                None,
            )
            if before and before.sha256 != version_hash(repository, name, version):
                raise BadInput(
                    f"the configs of {name} version {version} were changed since it was live; "
                    f"look at them, then run: dfvt-deploy promote {name} --version {version}"
                )
            verdicts = before.verdicts if before else verdicts_on(repository, name, version)
            return go_live(
                repository, name, version, "rollback", reason=options.reason, verdicts=verdicts
            )
    except OSError as error:
        raise StageFailed(f"{repository} cannot be written: {error}") from error


def _live_or_recorded(
    options: PromoteOptions, version: int, verdicts: dict[str, Verdict | None]
) -> Change:
    """Make a version live; the last change where it is live already, in its present form."""
    repository, name = options.repository, options.model
    changes = read_history(repository, name)
    if live_version(repository, name) == version and changes:
        last = changes[-1]
        same = last.version == version and last.sha256 == version_hash(repository, name, version)
        if same and last.verdicts == verdicts:
            return last
    return go_live(repository, name, version, "promote", reason=options.reason, verdicts=verdicts)


def _check_verdicts(
    name: str, version: int, verdicts: dict[str, Verdict | None], unvalidated: bool
) -> None:
    if unvalidated or passed(verdicts):
        return
    lines = [
        f"{file}: {v.verdict}, on {v.images:,} images of {v.dataset} ({v.report})"
        if v
        else f"{file}: never validated"
        for file, v in verdicts.items()
    ]
    raise GateFailed(
        f"{name} version {version} has no passing verdict; run dfvt-deploy validate, or give "
        "--unvalidated --reason WHY",
        *lines,
    )


def _check_lint(staging: Path, name: str, version: int) -> None:
    errors = [f for f in lint(staging).findings if RULES[f.rule].severity == "error"]
    if errors:
        lines = [
            f"{f.rule}: {f.path.relative_to(staging)}:{f.line}: {f.problem}; {f.fix}"
            for f in errors
        ]
        raise BadInput(f"lint refuses {name} version {version}:", *lines)


def _listed(found: Any) -> str:
    return ", ".join(map(str, found)) or "none"
