"""Load on a served model: many clients, both protocols, malformed images among the good ones.

    python benchmarks/serve_load.py exports/dfvt_s_classification [--requests 2000] [--bad 200]

Every good answer is compared with the offline pipeline, every bad one must be refused. Prints
throughput and latency percentiles for each protocol; ends with 1 if anything was not as it must.
"""

import argparse
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dfvt_deploy import open_artifact, populate, serve
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.errors import BadInput
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.tasks import classification
from dfvt_deploy.tasks.images import decode_image


def malformed(count: int) -> list[bytes]:
    """Truncated, overwritten and foreign files, no two alike."""
    rng = np.random.default_rng(0)
    good = (SAMPLES / "cat.jpg").read_bytes()
    kinds = (
        lambda: good[: rng.integers(1, len(good) // 2)],
        lambda: rng.bytes(int(rng.integers(0, 5000))),
        lambda: b"\x89PNG\r\n\x1a\n" + rng.bytes(200),
        lambda: b"RIFF\x10\0\0\0WEBPVP8 " + rng.bytes(50),
        lambda: b"GIF89a" + rng.bytes(100),
    )
    return [kinds[i % len(kinds)]() for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--bad", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    artifact = open_artifact(options.model)
    samples = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]
    expected = []
    with OnnxRuntimeRunner(artifact.onnx_path()) as runner:
        for data in samples:
            outputs = runner.infer(classification.preprocess_batch([decode_image(data)]))
            expected.append(classification.postprocess_batch(outputs, artifact.manifest.labels))
    bad = malformed(options.bad)
    every = (options.requests + options.bad) // max(options.bad, 1)
    wrong = Counter()

    def client(number: int, url: str, protocol: str) -> list[float]:
        seconds = []
        with TritonRunner(artifact.manifest.name, url, protocol) as runner:
            for i in range(number, options.requests + options.bad, options.clients):
                is_bad = i % every == 0 and i // every < options.bad
                data = bad[i // every] if is_bad else samples[i % len(samples)]
                start = time.perf_counter()
                try:
                    found = runner.infer({"image": np.array([[data]], dtype=np.object_)})
                except BadInput:
                    wrong["good refused"] += not is_bad
                    wrong["bad refused, as must be"] += is_bad
                    continue
                seconds.append(time.perf_counter() - start)
                wanted = expected[i % len(samples)]
                same = np.array_equal(found["labels"], wanted["labels"]) and np.allclose(
                    found["scores"], wanted["scores"], atol=1e-6
                )
                wrong["bad answered"] += is_bad
                wrong["differs from offline"] += not is_bad and not same
        return seconds

    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        populate(artifact.directory, repository=repository)
        with serve(repository) as server:
            for protocol, url in (("http", server.http_url), ("grpc", server.grpc_url)):
                wrong.clear()
                start = time.perf_counter()
                with ThreadPoolExecutor(options.clients) as pool:
                    clients = [
                        pool.submit(client, number, url, protocol)
                        for number in range(options.clients)
                    ]
                    times = [seconds for done in clients for seconds in done.result()]
                total = time.perf_counter() - start
                p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1000
                print(
                    f"{protocol}: {len(times)} answered, {dict(wrong)}, "
                    f"{len(times) / total:.1f} images/s, "
                    f"p50 {p50:.1f} p95 {p95:.1f} p99 {p99:.1f} ms"
                )
                assert len(times) == options.requests
                assert wrong["bad refused, as must be"] == options.bad
                assert not wrong["good refused"] + wrong["bad answered"]
                assert not wrong["differs from offline"]


if __name__ == "__main__":
    main()
