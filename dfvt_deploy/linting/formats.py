"""A report as text, JSON or SARIF 2.1.0."""

from collections.abc import Mapping
from typing import Any

from .. import __version__
from .rules import RULES, Finding
from .run import LintReport


def report_text(report: LintReport) -> str:
    """One line for each finding, with its fix on the next, and a last line that counts."""
    lines = [*report.fixed]
    for finding in report.findings:
        place = f"{finding.path}:{finding.line}" if finding.line else str(finding.path)
        field = f" {finding.field}:" if finding.field else ""
        severity = RULES[finding.rule].severity
        lines.append(f"{place}: {severity} [{finding.rule}]{field} {finding.problem}")
        lines.append(f"    fix: {finding.fix}")
    errors, warnings = report.errors, len(report.findings) - report.errors
    lines.append(
        f"{report.models} models checked: {_count(errors, 'error')}, {_count(warnings, 'warning')}"
    )
    return "\n".join(lines)


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
