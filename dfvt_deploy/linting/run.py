"""`lint`: every check over every repository, and the report as text, JSON or SARIF 2.1.0."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import __version__
from ..cores import usable_cores
from ..engines.machine import TritonRelease, triton_release
from ..errors import BadInput, optional
from ..options import from_fields
from ..text_files import near
from .check_batching import check_batching
from .check_config import check_config
from .check_ensembles import check_ensemble
from .check_files import check_folder, check_ours, check_repository
from .check_parameters import check_parameters
from .check_plans import check_plans
from .check_samples import check_samples
from .options import LintOptions
from .reading import Repository, is_model_folder, read_repository
from .rules import RULES, Finding, Severity


@dataclass(frozen=True)
class LintReport:
    """The findings in order of files and lines, and a sentence for each that `--fix` corrected."""

    findings: tuple[Finding, ...]
    models: int
    fixed: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Findings that stop a model from loading or make it answer wrongly."""
        return sum(RULES[f.rule].severity is Severity.ERROR for f in self.findings)


@from_fields(LintOptions, "*paths")
def lint(options: LintOptions) -> LintReport:
    """Check model repositories as Triton reads them, without a server or a GPU.

    paths: repositories, or folders of single models; `model_repository` by default.
    Raises BadInput where a path is not a folder, or a rule or target does not exist,
    MissingDependency where tritonclient, which has Triton's schema, is not installed.
    """
    optional("tritonclient.grpc")
    release = triton_release(options.target) if options.target else None
    for rule in options.ignore:
        if rule not in RULES:
            raise BadInput(f"--ignore {rule!r} is no rule{near(rule, RULES)}")
    report = _report(options, release)
    if options.fix:
        tried = (_FIXES[f.rule](f) for f in report.findings if mends(f))
        if fixed := tuple(filter(None, tried)):
            report = replace(_report(options, release), fixed=fixed)
    return report


def _report(options: LintOptions, release: TritonRelease | None) -> LintReport:
    repositories = [_read(path) for path in options.paths]
    found = dict.fromkeys(
        finding
        for repository in repositories
        for finding in _findings(repository, options, release)
        if finding.rule not in options.ignore
    )
    ordered = sorted(found, key=lambda f: (str(f.path), f.line, f.rule, f.problem))
    return LintReport(tuple(ordered), sum(len(each.models) for each in repositories))


def _read(path: Path) -> Repository:
    if not path.is_dir():
        raise BadInput(f"{path} is not a folder; give a model repository or a model's folder")
    if not is_model_folder(path):
        return read_repository(path)
    path = path.resolve()
    return Repository(path.parent, {path.name: read_repository(path.parent).models[path.name]})


def _findings(
    repository: Repository, options: LintOptions, release: TritonRelease | None
) -> Iterable[Finding]:
    yield from check_repository(repository)
    cores = options.cores or usable_cores()
    for model in repository.models.values():
        yield from check_folder(model)
        if not model.has_config:
            continue
        yield from check_config(model, cores, options.gpu)
        if model.backend in ("onnxruntime", "openvino"):
            from .check_onnx import check_onnx

            yield from check_onnx(model, release.onnxruntime if release else None)
        yield from check_plans(model, release)
        yield from check_ensemble(model, repository)
        for check in (check_batching, check_parameters, check_samples):
            yield from check(model)
    yield from check_ours(repository)


def mends(finding: Finding) -> bool:
    """Whether `--fix` may correct a finding; of version folders it makes only those left empty."""
    return finding.rule in _FIXES and (finding.rule != "no-version" or "stays empty" in finding.fix)


def _make_version(finding: Finding) -> str:
    (finding.path / "1").mkdir()
    return f"{finding.path / '1'} was made"


def _close_to_others(finding: Finding) -> str:
    mode = finding.path.stat().st_mode
    finding.path.chmod(mode & ~0o002)
    return f"{finding.path} is no longer writable by others"


def _rename_version(finding: Finding) -> str:
    target = finding.path.with_name(str(int(finding.path.name)))
    if target.exists():
        return ""
    finding.path.rename(target)
    return f"{finding.path} was renamed to {target.name}"


_FIXES: Mapping[str, Callable[[Finding], str]] = {
    "no-version": _make_version,
    "version-folder": _rename_version,
    "writable-by-others": _close_to_others,
}


def finding_lines(finding: Finding) -> tuple[str, str]:
    """What was found and where, and its fix."""
    place = f"{finding.path}:{finding.line}" if finding.line else str(finding.path)
    field = f" {finding.field}:" if finding.field else ""
    severity = RULES[finding.rule].severity
    found = f"{place}: {severity} [{finding.rule}]{field} {finding.problem}"
    return found, f"    fix: {finding.fix}"


def counts(report: LintReport) -> str:
    """How many models were checked and how many findings there are of each severity."""
    warnings = _count(len(report.findings) - report.errors, "warning")
    return f"{report.models} models checked: {_count(report.errors, 'error')}, {warnings}"


def report_json(report: LintReport) -> dict[str, Any]:
    """The report as plain data for `--format json`."""
    return {
        "models": report.models,
        "errors": report.errors,
        "fixed": list(report.fixed),
        "findings": [
            {**vars(f), "path": str(f.path), "severity": str(RULES[f.rule].severity)}
            for f in report.findings
        ],
    }


def report_sarif(report: LintReport) -> dict[str, Any]:
    """The report in the form that code hosts read (OASIS SARIF 2.1.0)."""
    used = sorted({finding.rule for finding in report.findings})
    driver = {
        "name": "dfvt-deploy lint",
        "version": __version__,
        "rules": [
            {
                "id": rule,
                "shortDescription": {"text": RULES[rule].summary},
                "help": {"text": f"docs/lint.md explains {rule}."},
                "defaultConfiguration": {"level": str(RULES[rule].severity)},
            }
            for rule in used
        ],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_result(f) for f in report.findings]}],
    }


def _result(finding: Finding) -> Mapping[str, Any]:
    path = finding.path
    uri = path.as_uri() if path.is_absolute() else path.as_posix()
    location: dict[str, Any] = {"artifactLocation": {"uri": uri}}
    if finding.line:
        location["region"] = {"startLine": finding.line}
    field = f"{finding.field}: " if finding.field else ""
    return {
        "ruleId": finding.rule,
        "level": str(RULES[finding.rule].severity),
        "message": {"text": f"{field}{finding.problem}. Fix: {finding.fix}."},
        "locations": [{"physicalLocation": location}],
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
