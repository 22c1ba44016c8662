"""A classifier served by LitServe, beside the server of `populate`, under the same load over HTTP.

    pip install litserve
    python benchmarks/litserve_server.py exports/dfvt_s_classification [--rounds 3] [--workers 2]
        [--backend openvino --precision bf16]

LitServe runs this package's own decoding, preprocessing, float32 network in onnxruntime and answer
in each of `--workers` processes of one thread; eight connections ask it for the package's samples,
one request after the other each. Images a second of both, shuffled, with a server of its own each
time; the last line has the median of the ratios of the rounds.
"""

import argparse
import base64
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from dfvt_deploy import open_artifact
from dfvt_deploy.benchmarking.bench import read_images
from dfvt_deploy.benchmarking.candidates import candidate_of
from dfvt_deploy.benchmarking.options import BenchOptions, Runtime
from dfvt_deploy.benchmarking.served import measure_target, populated
from dfvt_deploy.types import Precision

PORT, CONNECTIONS, SECONDS = 18642, 8, 6.0

SERVER = """
import base64
import sys
from pathlib import Path
import litserve
from dfvt_deploy import open_artifact
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.tasks.images import decode_image

class Classifier(litserve.LitAPI):
    def setup(self, device):
        artifact = open_artifact(Path(sys.argv[1]))
        self.pipeline = Pipeline(artifact.manifest)
        self.runner = OnnxRuntimeRunner(artifact.onnx_path(), threads=1)
        self.runner.__enter__()
    def decode_request(self, request):
        return base64.b64decode(request["image"])
    def predict(self, data):
        inputs = self.pipeline.prepare(decode_image(data))
        return self.pipeline.postprocess(inputs, self.runner.infer(self.pipeline.feed(inputs)))
    def encode_response(self, answers):
        return {name: value.tolist() for name, value in answers.items() if value.dtype.kind in "fi"}

if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(), accelerator="cpu", workers_per_device=int(sys.argv[2])
    )
    server.run(host="127.0.0.1", port=int(sys.argv[3]), generate_client_file=False)
"""


def ask(connection: http.client.HTTPConnection, data: bytes) -> None:
    body = json.dumps({"image": base64.b64encode(data).decode()})
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.read()[:1] != b"{" or response.status != 200:
        raise SystemExit(f"LitServe answered {response.status}")


def of_litserve(model: Path, workers: int, images: list[bytes]) -> float:
    """Images a second of a LitServe of its own."""
    folder = tempfile.TemporaryDirectory()
    script = Path(folder.name) / "server.py"  # its processes import it again
    script.write_text(SERVER)
    words = [sys.executable, script, model, str(workers), str(PORT)]
    with folder, subprocess.Popen(words, stdout=2, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    ask(http.client.HTTPConnection("127.0.0.1", PORT, timeout=10), images[0])
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.2)

            def keep_asking(end: float) -> int:
                connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
                done = 0
                while time.monotonic() < end:
                    ask(connection, images[done % len(images)])
                    done += 1
                return done

            with ThreadPoolExecutor(CONNECTIONS) as pool:
                for seconds in (2.0, SECONDS):  # the first warms up
                    start = time.monotonic()
                    done = sum(pool.map(keep_asking, [start + seconds] * CONNECTIONS))
                    rate = done / (time.monotonic() - start)
            return rate
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # its workers outlive it otherwise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()
    artifact = open_artifact(args.model)
    file = candidate_of(artifact, Runtime(args.backend), Precision(args.precision))
    options = BenchOptions(
        serve=True, concurrency=(CONNECTIONS,), protocols=("http",), window=SECONDS / 3
    )
    images = read_images(options)

    def of_triton() -> float:
        rows: list = []
        with populated(artifact, file) as target:
            measure_target(artifact, target, options, images, rows, {})
        return rows[0].throughput

    ratios = []
    for _ in range(args.rounds):
        measures = {"LitServe": lambda: of_litserve(args.model, args.workers, images)}
        measures[file.title] = of_triton
        found = {name: measures[name]() for name in random.sample(list(measures), 2)}
        ratios.append(found[file.title] / found["LitServe"])
        print(", ".join(f"{name} {value:.1f} images/s" for name, value in found.items()))
    print(f"{file.title} served here over LitServe: {median(ratios):.2f}")


if __name__ == "__main__":
    main()
