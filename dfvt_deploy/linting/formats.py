"""A report as text, JSON or SARIF 2.1.0."""

from collections.abc import Mapping
from typing import Any

from .. import __version__
from .rules import RULES, Finding
from .run import LintReport


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
