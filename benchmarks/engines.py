"""Latency of engines on this machine's GPU, copies included.

    python benchmarks/engines.py exports > engines.json

Every engine under the folder that runs on this GPU, at batch 1 and at the usual batch of its
profile; medians.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from dfvt_deploy.engines.record import EngineRecord, read_record
from dfvt_deploy.errors import DfvtError
from dfvt_deploy.gpu.devices import gpu
from dfvt_deploy.runners.tensorrt import TensorRTRunner

WARM_UP, RUNS = 20, 200


def feed_of(record: EngineRecord, batch: int) -> dict[str, np.ndarray]:
    """Zeros in the usual shapes; `image_sizes` says that the images fill them."""
    feed = {}
    for name, shapes in record.profile.items():
        shape = (batch, *shapes.opt[1:])
        if name == "image_sizes":
            feed[name] = np.tile(np.int64(record.profile["images"].opt[1:3]), (batch, 1))
        else:
            feed[name] = np.zeros(shape, np.uint8 if shape[-1] == 3 else np.float32)
    return feed


def measure(plan: Path, batch: int) -> dict[str, object]:
    feed = feed_of(read_record(plan), batch)
    times = []
    with TensorRTRunner(plan) as runner:
        for run in range(WARM_UP + RUNS):
            start = time.perf_counter()
            runner.infer(feed)
            if run >= WARM_UP:
                times.append(time.perf_counter() - start)
    return {"batch": batch, "ms": round(1e3 * float(np.median(times)), 3)}


def main(exports: Path) -> None:
    rows = []
    for plan in sorted(exports.glob("*/*.plan")):
        record = read_record(plan)
        row = {"model": plan.parent.name, "plan": plan.name, "version": record.version}
        try:
            batches = sorted({1, record.profile["images"].opt[0]})
            rows.append({**row, "measured": [measure(plan, batch) for batch in batches]})
        except DfvtError as error:
            rows.append({**row, "error": str(error)})
        print(rows[-1], file=sys.stderr)
    print(json.dumps({"gpu": gpu().name, "runs": RUNS, "engines": rows}, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
