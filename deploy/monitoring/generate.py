"""Makes the dashboard, the alert rules and the autoscaler's metric of metrics.yaml:

python deploy/monitoring/generate.py
"""

import json
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
CHART_FILES = HERE.parent / "helm" / "dfvt-deploy" / "files"

JOB = "dfvt-deploy"
_STEPS = "(preprocess|network|postprocess)"
_HEADER = "# Made of metrics.yaml by generate.py.\n"
#: The widths of Grafana's grid are 24 to a row.
_WIDTH, _HEIGHT = 12, 8


def read() -> dict[str, Any]:
    """metrics.yaml."""
    return yaml.safe_load((HERE / "metrics.yaml").read_text(encoding="utf-8"))


def expression(text: str, source: dict[str, Any], window: str, model: str = "") -> str:
    """An expression of metrics.yaml as Prometheus takes it.

    Args:
        text: the expression with its placeholders.
        source: metrics.yaml.
        window: the time that rates look at, such as `5m`.
        model: a regular expression of the models that are looked at; all by default.
    """
    job = f'job="{JOB}"'
    chosen = f',model=~"{model}"' if model else ""
    words = {
        **source["expressions"],
        "all": job,
        "models": f'{job},model!~".+_{_STEPS}"{chosen}',
        "steps": f'{job},model=~"({model or ".+"})_{_STEPS}"',
        "window": window,
    }
    for word, meaning in words.items():
        text = text.replace(f"<{word}>", meaning)
    return text


def alerts(source: dict[str, Any], window: str = "5m", delay: str = "") -> dict[str, Any]:
    """Prometheus' rule file. `delay` replaces the time for which a cause must last."""
    rules = [
        {
            "alert": name,
            "expr": expression(alert["expr"], source, window),
            "for": delay or alert["for"],
            "labels": {"severity": alert["severity"]},
            "annotations": {key: alert[key] for key in ("summary", "description")},
        }
        for name, alert in source["alerts"].items()
    ]
    return {"groups": [{"name": JOB, "rules": rules}]}


def dashboard(source: dict[str, Any]) -> dict[str, Any]:
    """Grafana's dashboard."""
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    panels = [_panel(source, number, panel) for number, panel in enumerate(source["dashboard"])]
    models = f'label_values(nv_inference_count{{job="{JOB}",model!~".+_{_STEPS}"}}, model)'
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        {
            "name": "model",
            "type": "query",
            "datasource": datasource,
            "query": {"query": models, "refId": "models"},
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    return {
        "uid": JOB,
        "title": "DFvT models on Triton",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": variables},
        "panels": panels,
    }


def _panel(source: dict[str, Any], number: int, panel: dict[str, Any]) -> dict[str, Any]:
    datasource = {"type": "prometheus", "uid": "${datasource}"}
    row, column = divmod(number, 24 // _WIDTH)
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": datasource,
            "expr": expression(query, source, "$__rate_interval", "${model:regex}"),
            "legendFormat": legend,
        }
        for index, (legend, query) in enumerate(panel["queries"].items())
    ]
    return {
        "id": number + 1,
        "title": panel["title"],
        "type": panel.get("kind", "timeseries"),
        "datasource": datasource,
        "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "targets": targets,
    }


def adapter(source: dict[str, Any]) -> dict[str, Any]:
    """The rule by which prometheus-adapter gives the autoscaler its metric."""
    scaling = source["autoscaling"]
    rule = {
        "seriesQuery": scaling["series"],
        "resources": {
            "overrides": {name: {"resource": name} for name in ("namespace", "pod")},
        },
        "name": {"as": scaling["metric"]},
        "metricsQuery": scaling["query"],
    }
    return {"rules": {"custom": [rule]}}


def generated() -> dict[Path, str]:
    """The generated files and their text."""
    source = read()
    rules = _HEADER + _yaml(alerts(source))
    board = json.dumps(dashboard(source), indent=2) + "\n"
    return {
        HERE / "alerts.yaml": rules,
        HERE / "dashboard.json": board,
        HERE / "prometheus-adapter.yaml": _HEADER + _yaml(adapter(source)),
        CHART_FILES / "alerts.yaml": rules,
        CHART_FILES / "dashboard.json": board,
        CHART_FILES / "autoscaling.yaml": _HEADER
        + _yaml({"metric": source["autoscaling"]["metric"]}),
    }


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, width=100)
    return text


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
