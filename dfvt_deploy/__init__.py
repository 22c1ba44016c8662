"""From a DFvT checkpoint to answers from NVIDIA Triton, with proof at every step.

The steps of the command line are functions here, imported when first used:

    from dfvt_deploy import export, populate, serve, predict
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

#: Where each function lives; no module may have the name of one.
_FUNCTIONS = {
    "batch": "batches.run",
    "bench": "benchmarking.bench",
    "build_trt": "precision.build_engines",
    "demo": "demo_page.server",
    "explain": "explaining.explain",
    "export": "exporters.export",
    "convert": "precision.convert",
    "lint": "linting.run",
    "open_artifact": "artifact",
    "populate": "serving.repository",
    "plan": "capacity.planning",
    "predict": "serving.client",
    "promote": "promotion.live_versions",
    "rollback": "promotion.live_versions",
    "serve": "serving.server",
    "versions": "promotion.live_versions",
    "tune": "tuning.tune",
    "validate": "evaluate.validation",
    "quickstart": "start.quickstart",
    "doctor": "start.doctor",
}

__all__ = ["__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(import_module(f".{_FUNCTIONS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
