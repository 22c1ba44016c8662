"""`bench` beside NVIDIA's perf_analyzer on one server: images a second and median latency.

    python benchmarks/perf_analyzer.py exports/dfvt_s_classification [--command perf_analyzer]
        [--rounds 3]

Both ask a server with the defaults of `populate` for one photograph, over gRPC and HTTP, one and
eight requests at a time, in shuffled order. The last lines have the medians over the rounds, and
those of the ratios of `bench` to perf_analyzer. The binary is in NVIDIA's SDK image, and in the
wheel of tritonclient 2.60, for systems with glibc 2.38; `--command` may name a loader before it.
"""

import argparse
import base64
import csv
import json
import random
import shlex
import shutil
import struct
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from dfvt_deploy import bench, open_artifact, populate, serve
from dfvt_deploy.artifact import Artifact
from dfvt_deploy.data import SAMPLES

LOADS = [(protocol, requests) for protocol in ("grpc", "http") for requests in (1, 8)]


def by_perf_analyzer(
    command: str, artifact: Artifact, url: str, load: tuple, folder: Path
) -> tuple:
    photo = next(folder.glob("*.jpg")).read_bytes()
    content = base64.b64encode(struct.pack("<I", len(photo)) + photo).decode()
    data, found = folder / "image.json", folder / "found.csv"
    data.write_text(json.dumps({"data": [{"image": {"content": {"b64": content}, "shape": [1]}}]}))
    protocol, requests = load
    asked = (
        f"-m {artifact.manifest.name} -b 1 -u {url} -i {protocol} --concurrency-range {requests}"
    )
    files = f"--input-data {data} -f {found} --measurement-interval 2000"
    subprocess.run(shlex.split(f"{command} {asked} {files}"), check=True, capture_output=True)
    [row] = csv.DictReader(found.open())
    return float(row["Inferences/Second"]), float(row["p50 latency"]) / 1000


def by_bench(artifact: Artifact, url: str, load: tuple, folder: Path) -> tuple:
    at_url = {"url": url, "protocols": load[:1], "concurrency": load[1:], "images": folder}
    [row] = bench(artifact.directory, **at_url).served
    assert not row.wrong and not row.failed
    return row.images_per_second, row.p50.median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--command", default="perf_analyzer")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    artifact = open_artifact(args.model)
    found: dict[tuple, list[tuple]] = {load: [] for load in LOADS}
    with tempfile.TemporaryDirectory() as scratch:
        folder, repository = Path(scratch) / "photo", Path(scratch) / "model_repository"
        folder.mkdir()
        shutil.copy(SAMPLES / "cat.jpg", folder)
        populate(artifact.directory, repository=repository)
        with serve(repository) as server:
            urls = {"grpc": server.grpc_url, "http": server.http_url}
            for _ in range(args.rounds):
                for load in random.sample(LOADS, len(LOADS)):
                    url = urls[load[0]]
                    both = {
                        "perf_analyzer": partial(by_perf_analyzer, args.command),
                        "bench": by_bench,
                    }
                    got = {
                        kind: both[kind](artifact, url, load, folder)
                        for kind in random.sample(list(both), 2)
                    }
                    found[load].append((*got["bench"], *got["perf_analyzer"]))
                    print(*load, *(f"{figure:.1f}" for figure in found[load][-1]), flush=True)
    print("| | images/s: bench, perf_analyzer, ratio | ms p50: bench, perf_analyzer, ratio |")
    print("|---|---|---|")
    for (protocol, requests), rows in found.items():
        cells = []
        for mine, theirs in ((0, 2), (1, 3)):
            ratio = median(row[mine] / row[theirs] for row in rows)
            figures = [median(row[i] for row in rows) for i in (mine, theirs)]
            cells.append(", ".join([*(f"{figure:.1f}" for figure in figures), f"{ratio:.2f}"]))
        print(f"| {protocol}, {requests} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
