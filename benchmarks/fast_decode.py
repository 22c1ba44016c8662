"""What decoding JPEG files at reduced scale saves, and large JPEG files to judge it on.

    python benchmarks/fast_decode.py time exports/NAME... [--rounds 30] [--serve ROUNDS]
    python benchmarks/fast_decode.py enlarge HELDOUT LARGE [--side 2000] [--noise 10]

`time` takes a photograph of the package at 4000x3000 and at 600x400, quality 90, and gives the
processor time of decoding with preprocessing, exact and reduced, in shuffled order; with --serve it
also asks servers of each kind in turn (FP32 in onnxruntime, gRPC), so many rounds.

`enlarge` makes a labelled data set of large files: every PNG outside a folder called annotations
becomes a JPEG whose long side has so many pixels, with that much noise as cameras have it, since
enlarging alone gives no detail that reduced decoding could lose; an annotation is enlarged by its
nearest pixels. Then, for digits:

    dfvt-deploy validate NAME --fast-decode --dataset imagenet --data LARGE --max-drop 1
"""

import argparse
import io
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from dfvt_deploy import bench
from dfvt_deploy.artifact import open_artifact
from dfvt_deploy.benchmarking.results import ServedRow
from dfvt_deploy.data import SAMPLES
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.serving.repository import populate

SIZES = ((4000, 3000), (600, 400))


def noisy(image: Image.Image, noise: float, seed: int) -> Image.Image:
    """The image with noise of this standard deviation in grey levels."""
    grain = np.random.default_rng(seed).normal(0, noise, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def jpeg_of(size: tuple[int, int], noise: float = 10) -> bytes:
    """A photograph of the package as a JPEG file of this width and height."""
    photograph = Image.open(SAMPLES / "cat.jpg").convert("RGB")
    file = io.BytesIO()
    noisy(photograph.resize(size, Image.Resampling.LANCZOS), noise, 0).save(
        file, "JPEG", quality=90
    )
    return file.getvalue()


def print_times(folder: Path, rounds: int) -> None:
    exact = Pipeline(open_artifact(folder).manifest)
    for size in SIZES:
        data = jpeg_of(size)
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(rounds + 1):
            for fast in random.sample([False, True], 2):
                start = time.process_time()
                replace(exact, fast_decode=fast).read(data)
                times[fast].append(1000 * (time.process_time() - start))
        plain, reduced = (values[1:] for values in times.values())
        ratio = statistics.median(b / a for a, b in zip(plain, reduced, strict=True))
        print(
            f"{folder.name} {size[0]}x{size[1]}, {len(data) / 2**20:.1f} MiB, CPU time: exact "
            f"{statistics.median(plain):.1f} ms, reduced {statistics.median(reduced):.1f} ms, "
            f"ratio {ratio:.2f}",
            flush=True,
        )


def print_served(folder: Path, size: tuple[int, int], rounds: int) -> None:
    """Each round has a server of each kind, in shuffled order; the ratio is of the same round."""
    rows: dict[tuple[int, bool], list[ServedRow]] = {}
    with tempfile.TemporaryDirectory() as images:
        (Path(images) / "photo.jpg").write_bytes(jpeg_of(size))
        for number in range(rounds):
            for fast in random.sample([False, True], 2):
                with tempfile.TemporaryDirectory() as at:
                    repository = Path(at) / "model_repository"
                    populate(folder, repository=repository, fast_decode=fast)
                    asked = {"protocols": ("grpc",), "concurrency": (1, 8)}
                    where = {"serve": True, "repository": repository, "images": Path(images)}
                    for row in bench(folder, **where, **asked).served:
                        rows.setdefault((row.concurrency, fast), []).append(row)
                        print(
                            f"  round {number}, {row.title} {row.setting}: "
                            f"{row.images_per_second:.1f} images/s, p50 {row.p50.median:.1f} ms, "
                            f"{row.right} right, {row.wrong + row.failed} not; preprocess "
                            f"{row.programs['preprocess'].cpu_ms:.1f} CPU ms an image, "
                            f"{row.programs['preprocess'].memory_mb:.0f} MB",
                            flush=True,
                        )
    for concurrency in sorted({key[0] for key in rows}):
        exact, reduced = (
            [row.images_per_second for row in rows[concurrency, fast]] for fast in (False, True)
        )
        ratio = statistics.median(b / a for a, b in zip(exact, reduced, strict=True))
        print(
            f"{folder.name} {size[0]}x{size[1]} at concurrency {concurrency}: exact "
            f"{statistics.median(exact):.1f} images/s, reduced {statistics.median(reduced):.1f}, "
            f"ratio {ratio:.2f}",
            flush=True,
        )


def enlarge(source: Path, target: Path, side: int, noise: float) -> None:
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        image = Image.open(path)
        scale = side / max(image.size)
        size = round(image.width * scale), round(image.height * scale)
        file = target / path.relative_to(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "annotations":
            image.resize(size, Image.Resampling.NEAREST).save(file)
            continue
        large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        noisy(large, noise, number).save(file.with_suffix(".jpg"), quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("models", type=Path, nargs="+")
    timing.add_argument("--rounds", type=int, default=30)
    timing.add_argument("--serve", type=int, default=0, metavar="ROUNDS")
    enlarging = commands.add_parser("enlarge")
    enlarging.add_argument("source", type=Path)
    enlarging.add_argument("target", type=Path)
    enlarging.add_argument("--side", type=int, default=2000)
    enlarging.add_argument("--noise", type=float, default=10)
    options = parser.parse_args()
    if options.command == "enlarge":
        return enlarge(options.source, options.target, options.side, options.noise)
    for folder in options.models:
        print_times(folder, options.rounds)
        for size in SIZES if options.serve else ():
            print_served(folder, size, options.serve)


if __name__ == "__main__":
    main()
