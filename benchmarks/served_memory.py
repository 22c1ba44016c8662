"""Peak memory of a served model's processes, and bytes per request, for images of given sizes.

    python benchmarks/served_memory.py exports/dfvt_s_segmentation [--sizes 512x512 512x2048]

Sizes are height x width of the sent images. For each a fresh server answers one request; the peak
is VmHWM of /proc, of the process that runs the network, before (loaded and warmed up) and after.
"""

import argparse
import io
import tempfile
from pathlib import Path

from PIL import Image

from dfvt_deploy import open_artifact, populate, predict, serve
from dfvt_deploy.data import SAMPLES


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def processes_of(server: int) -> list[int]:
    """The server's Python processes."""
    children = Path(f"/proc/{server}/task").glob("*/children")
    return [int(pid) for path in children for pid in path.read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--sizes", nargs="+", default=["512x512", "512x2048"])
    options = parser.parse_args()
    name = open_artifact(options.model).manifest.name
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        populate(options.model, repository=repository)
        for size in options.sizes:
            height, width = map(int, size.split("x"))
            file = io.BytesIO()
            Image.open(SAMPLES / "coffee.jpg").resize((width, height)).save(file, "JPEG")
            image = Path(folder) / f"{size}.jpg"
            image.write_bytes(file.getvalue())
            with serve(repository) as server:
                before = {pid: peak_mb(pid) for pid in processes_of(server.pid)}
                (answer,) = predict([image], name, url=server.grpc_url)
                after = {pid: peak_mb(pid) for pid in before}
            network = max(after, key=lambda pid: after[pid])
            print(
                f"{size}: network process {before[network]:.0f} MB loaded, "
                f"{after[network]:.0f} MB peak; {answer.bytes_sent:,} bytes sent, "
                f"{answer.bytes_received:,} received, {answer.milliseconds:.0f} ms"
            )


if __name__ == "__main__":
    main()
