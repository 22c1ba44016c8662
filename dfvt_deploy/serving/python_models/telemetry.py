"""What a Python step tells who runs it: its time in a histogram, and each refused request in a
counter and in a line of JSON on standard error, which holds nothing of the image.

Copied into model repositories beside `model.py`.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any

import triton_python_backend_utils as pb_utils
from dfvt_tasks.images import REASONS, ImageError

#: Upper bounds of the histogram, in seconds.
_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]

#: Refusals that one process writes in a second; a flood of bad requests must not fill the disk.
_MOST_LINES = 10


class Telemetry:
    """The metrics and the log of one process of a step; `args` are what Triton initializes with."""

    def __init__(self, args: dict[str, str]) -> None:
        self._labels = {"model": args["model_name"], "version": args["model_version"]}
        kinds = pb_utils.MetricFamily
        # Triton ends a family together with the object, so both are kept.
        self._families = (
            kinds("dfvt_step_duration_seconds", "Time of a request in a step", kinds.HISTOGRAM),
            kinds("dfvt_refused_requests_total", "Requests refused by a step", kinds.COUNTER),
        )
        times, refusals = self._families
        self._times = times.Metric(labels=self._labels, buckets=_BUCKETS)
        self._refusals = {
            reason: refusals.Metric(labels={**self._labels, "reason": reason}) for reason in REASONS
        }
        self._second = 0
        self._lines = self._unwritten = 0

    def timed(self, answer: Callable[[Any], Any], request: Any) -> Any:
        """The answer to a request, whose time is counted."""
        start = time.perf_counter()
        try:
            return answer(request)
        finally:
            self._times.observe(time.perf_counter() - start)

    def refusal(self, request: Any, error: ImageError, sizes: Sequence[int] = ()) -> Any:
        """The response that refuses a request; `sizes` are the bytes of its images."""
        self._refusals[error.reason].increment(1)
        self._write(request.request_id(), error.reason, sizes)
        refused = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        return pb_utils.InferenceResponse(error=refused)

    def _write(self, request_id: str, reason: str, sizes: Sequence[int]) -> None:
        now = datetime.now(timezone.utc)
        if int(now.timestamp()) != self._second:
            self._second, self._lines = int(now.timestamp()), 0
        self._lines += 1
        if self._lines > _MOST_LINES:
            self._unwritten += 1
            return
        line = {
            "time": now.isoformat(timespec="milliseconds"),
            "event": "refused",
            **self._labels,
            "request_id": request_id[:100],
            "reason": reason,
            "image_bytes": list(sizes),
            "unwritten_before": self._unwritten,
        }
        self._unwritten = 0
        print(json.dumps(line), file=sys.stderr, flush=True)  # noqa: T201
