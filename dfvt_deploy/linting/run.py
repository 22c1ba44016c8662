"""`lint`: every check over every repository, and the report as text, JSON or SARIF 2.1.0."""

from dataclasses import dataclass, replace
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
from .check_files import check_folder, check_ours, check_tree
from .check_parameters import check_parameters
from .check_plans import check_plans
from .check_samples import check_samples
from .options import LintOptions
from .reading import Repository, read_repository
from .rules import RULES, Finding, Findings, Severity

#: The rules that `--fix` corrects; of version folders it makes only those left empty.
_MENDED = ("no-version", "version-folder", "writable-by-others")


@dataclass(frozen=True)
class LintReport:
    """The findings in order of files and lines, and a sentence for each that `--fix` corrected."""

    findings: tuple[Finding, ...]
    models: int
    fixed: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Findings that stop a model from loading or make it answer wrongly."""
        return sum(finding.severity is Severity.ERROR for finding in self.findings)


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
    # What lies deeper first, so that its path is still right.
    tried = map(_mended, filter(mends, reversed(report.findings if options.fix else ())))
    if fixed := tuple(filter(None, tried)):
        return replace(_report(options, release), fixed=fixed)
    return report


def _report(options: LintOptions, release: TritonRelease | None) -> LintReport:
    repositories = [read_repository(path) for path in options.paths]
    found = dict.fromkeys(
        finding
        for repository in repositories
        for finding in _findings(repository, options, release)
        if finding.rule not in options.ignore
    )
    ordered = sorted(found, key=lambda f: (str(f.path), f.line, f.rule, f.problem))
    return LintReport(tuple(ordered), sum(len(each.checked) for each in repositories))


def _findings(
    repository: Repository, options: LintOptions, release: TritonRelease | None
) -> Findings:
    yield from check_tree(repository)
    cores = options.cores or usable_cores()
    for model in repository.checked:
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
    """Whether `--fix` may correct a finding."""
    return finding.rule in _MENDED and (
        finding.rule != "no-version" or "stays empty" in finding.fix
    )


def _mended(finding: Finding) -> str:
    """Correct what a finding is about, and say so; an empty text where it cannot be."""
    path = finding.path
    if finding.rule == "writable-by-others":
        path.chmod(path.stat().st_mode & ~0o002)
        return f"{path} is no longer writable by others"
    makes = finding.rule == "no-version"
    target = path / "1" if makes else path.with_name(str(int(path.name)))
    if target.exists():
        return ""
    if makes:
        target.mkdir()
        return f"{target} was made"
    path.rename(target)
    return f"{path} was renamed to {target.name}"


def finding_lines(finding: Finding) -> tuple[str, str]:
    """What was found and where, and its fix."""
    place = f"{finding.path}:{finding.line}" if finding.line else str(finding.path)
    field = f" {finding.field}:" if finding.field else ""
    found = f"{place}: {finding.severity} [{finding.rule}]{field} {finding.problem}"
    return found, f"    fix: {finding.fix}"


def counts(report: LintReport) -> str:
    """How many models were checked and how many findings there are of each severity."""
    errors, warnings = report.errors, len(report.findings) - report.errors
    found = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return f"{report.models} models checked: {found}"


def report_json(report: LintReport) -> dict[str, Any]:
    """The report as plain data for `--format json`."""
    return {
        "models": report.models,
        "errors": report.errors,
        "fixed": list(report.fixed),
        "findings": [
            {**vars(found), "path": str(found.path), "severity": str(found.severity)}
            for found in report.findings
        ],
    }


def report_sarif(report: LintReport) -> dict[str, Any]:
    """The report in the form that code hosts read (OASIS SARIF 2.1.0)."""
    rules = [
        {
            "id": rule,
            "shortDescription": {"text": RULES[rule].summary},
            "help": {"text": f"docs/lint.md explains {rule}."},
            "defaultConfiguration": {"level": str(RULES[rule].severity)},
        }
        for rule in sorted({finding.rule for finding in report.findings})
    ]
    driver = {"name": "dfvt-deploy lint", "version": __version__, "rules": rules}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [*map(_result, report.findings)]}],
    }


def _result(finding: Finding) -> dict[str, Any]:
    path = finding.path
    uri = path.as_uri() if path.is_absolute() else path.as_posix()
    region = {"region": {"startLine": finding.line}} if finding.line else {}
    field = f"{finding.field}: " if finding.field else ""
    return {
        "ruleId": finding.rule,
        "level": str(finding.severity),
        "message": {"text": f"{field}{finding.problem}. Fix: {finding.fix}."},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, **region}}],
    }
