"""Malformed requests and damaged images against a live server, with good requests between.

    python benchmarks/hostile_requests.py [exports/NAME …] [--requests 2000] [--images 2000]

Without models DFvT-T of each task is exported untrained, dense ones at 128x128. The requests go
over HTTP and gRPC to the models and to each of their steps. Prints what became of them. What is
known to end Triton 24.10 (SECURITY.md) is counted and not sent. Ends with 1 if the server or a step
of it ended, a good request got no answer or another than offline, or a request took over 30 s.
"""

import argparse
import gzip
import http.client
import io
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from mixed_load import IMAGES, memory_mb, repository_of, same
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from dfvt_deploy import serve
from dfvt_deploy.errors import DfvtError
from dfvt_deploy.runners.triton import TritonRunner
from dfvt_deploy.serving.process import children_of
from dfvt_deploy.serving.server import TritonServer

LONGEST_S = 30

NUMBERS = [0, -1, 1, 2, 3, 5, 100, 2**31 - 1, 2**31, 2**62, 2**63 - 1, 1e308, 0.5, float("nan")]
VALUES = [*NUMBERS, None, True, "", "x", "FP32", "BYTES", "\0", "é" * 99, [], {}, [[]], [1] * 99]
TYPES = ["BYTES", "FP32", "FP16", "FP64", "INT64", "UINT8", "BOOL", "BF16", "STRING", ""]
PARAMETERS = ["classification", "binary_data", "binary_data_size", "binary_data_output", "priority"]
PARAMETERS += ["shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "timeout"]
PARAMETERS += ["sequence_id", "sequence_start", "triton_enable_empty_final_response", "x"]

#: Names of the tensors that some step takes or gives, of any task.
TENSORS = ["image", "pixels", "images", "logits", "boxes", "scores", "class_map", "canvas_size"]
TENSORS += ["original_size", "class_ids", "masks", "image_size", "none", ""]


class Hostile:
    """Makes requests from a seed and sends them; `counts` says what became of them."""

    def __init__(self, server: TritonServer, models: list[str]) -> None:
        self.server = server
        self.counts: Counter = Counter()
        self.slowest = (0.0, "")
        steps = ("", "_preprocess", "_network", "_postprocess")
        self.targets = [name + step for name in models for step in steps]
        self.inputs = {name: self._described(name) for name in self.targets}

    def _described(self, name: str) -> dict:
        connection = http.client.HTTPConnection(self.server.http_url, timeout=LONGEST_S)
        connection.request("GET", f"/v2/models/{name}")
        return json.loads(connection.getresponse().read())

    def one(self, seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice(self.targets)
        send = rng.choice((self._over_http, self._over_http, self._over_grpc))
        start = time.monotonic()
        outcome = send(rng, name)
        self.slowest = max(self.slowest, (time.monotonic() - start, f"seed {seed}, {name}"))
        self.counts[f"{send.__name__.removeprefix('_over_')} {outcome}"] += 1

    def tensors(self, rng: random.Random, name: str) -> list[dict]:
        """Inputs of the model's own names and types with values, most of them then made wrong."""
        found = []
        for each in self.inputs[name]["inputs"]:
            free = rng.choice((1, 2, 3, 128, 1000))
            shape = [side if side > 0 else free for side in map(int, each["shape"])]
            count = min(int(np.prod(shape)), 60_000)
            data: list = [rng.choice(NUMBERS[:8]) for _ in range(min(count, 100))]
            data = (data * (count // max(len(data), 1) + 1))[:count]
            if each["datatype"] == "BYTES":
                data = [rng.choice(("", "text", "\xff\xd8\xff", "x" * 10_000)) for _ in data]
            found.append({**each, "shape": shape, "data": data})
        return found

    def _over_http(self, rng: random.Random, name: str) -> str:
        document: dict = {"inputs": self.tensors(rng, name)}
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            change(rng, document)
        if ends_triton(document):
            return "known to end Triton"
        body = json.dumps(document).encode()
        headers = {}
        if (kind := rng.random()) < 0.1:
            headers["Inference-Header-Content-Length"] = str(rng.choice(NUMBERS[:10]))
        elif kind < 0.2:
            at = rng.randrange(len(body))
            body = body[:at] + rng.randbytes(rng.choice((0, 1, 5))) + body[at + rng.randrange(9) :]
        elif kind < 0.25:
            headers["Content-Encoding"] = rng.choice(("gzip", "deflate", "br", "x"))
            body = rng.choice((body, gzip.compress(body), gzip.compress(body)[:-9]))
        version = rng.choice(("", "", "", "/versions/1", "/versions/9", "/versions/x"))
        connection = http.client.HTTPConnection(self.server.http_url, timeout=2 * LONGEST_S)
        try:
            connection.request("POST", f"/v2/models/{name}{version}/infer", body, headers)
            reply = connection.getresponse()
            text = reply.read().decode(errors="replace")
            # Of an answer of the server's own fault, the words without what varies in them.
            reason = (
                re.sub(r"[^ ]*[^a-zA-Z ,:.][^ ]*", "…", text)[:90] if reply.status >= 500 else ""
            )
            return f"{reply.status} {reason}".strip()
        except (http.client.HTTPException, ConnectionError) as error:
            return type(error).__name__
        finally:
            connection.close()

    def _over_grpc(self, rng: random.Random, name: str) -> str:
        asked = service_pb2.ModelInferRequest(model_name=name)
        for tensor in self.tensors(rng, name):
            added = asked.inputs.add(name=tensor["name"], datatype=tensor["datatype"])
            added.shape.extend(tensor["shape"])
            if tensor["datatype"] == "BYTES":
                parts = [each.encode() for each in tensor["data"]]
                raw = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
            else:
                kind = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
                with np.errstate(all="ignore"):
                    values = np.array(tensor["data"], np.float64)
                    raw = values.astype(kind.get(tensor["datatype"], np.uint8)).tobytes()
            if rng.random() < 0.3:
                raw = rng.choice((raw[:-1], raw * 2, b"", raw + b"\xff" * 4, b"\xff" * len(raw)))
            if rng.random() < 0.2:
                added.shape[:] = rng.choices([0, 1, -1, 3, 2**31, 2**62], k=rng.randrange(5))
            if rng.random() < 0.1:
                added.datatype = rng.choice(TYPES)
            if rng.random() < 0.1:
                added.contents.fp32_contents.extend([1.0] * 9)
            if rng.random() < 0.9:
                asked.raw_input_contents.append(raw)
        for holder in (asked, *asked.inputs, *(asked.outputs.add(name=n) for n in ("", "labels"))):
            if rng.random() < 0.15:
                holder.parameters[rng.choice(PARAMETERS)].int64_param = rng.choice(
                    [0, -1, 1, 2**40]
                )
        if rng.random() < 0.7:
            del asked.outputs[:]
        with grpc.insecure_channel(
            self.server.grpc_url, [("grpc.enable_http_proxy", 0)]
        ) as channel:
            try:
                service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(
                    asked, timeout=2 * LONGEST_S
                )
                return "answered"
            except grpc.RpcError as error:
                code = error.code().name
                reason = re.sub(r"[^ ]*[^a-zA-Z ,:.][^ ]*", "…", error.details() or "")[:90]
                return f"{code} {reason}" if code in ("INTERNAL", "UNKNOWN") else code

    def image(self, seed: int, model: str) -> None:
        """One damaged image to a model."""
        rng = random.Random(f"image {seed}")
        start = time.monotonic()
        with TritonRunner(model, self.server.http_url, "http", timeout=2 * LONGEST_S) as runner:
            try:
                runner.infer({"image": np.array([[damaged(rng)]], np.object_)})
                outcome = "answered"
            except DfvtError as error:
                outcome = type(error).__name__
        self.slowest = max(self.slowest, (time.monotonic() - start, f"image {seed}, {model}"))
        self.counts[f"image {outcome}"] += 1


def ends_triton(document: dict) -> bool:
    """Whether a shape asks for much memory, or an output for classes; see SECURITY.md."""
    inputs = document.get("inputs")
    for each in inputs if isinstance(inputs, list) else ():
        shape = each.get("shape") if isinstance(each, dict) else None
        sizes = [s for s in shape if isinstance(s, int)] if isinstance(shape, list) else []
        if abs(math.prod(sizes)) > 2**27:
            return True
    return "classification" in json.dumps(document.get("outputs"))


def change(rng: random.Random, document: dict) -> None:
    """Makes one place of a JSON request wrong."""
    inputs = document.get("inputs")
    tensor = rng.choice(inputs) if isinstance(inputs, list) and inputs else None
    kind = rng.randrange(9)
    if kind == 0:
        document[rng.choice(("inputs", "outputs", "id", "parameters"))] = rng.choice(VALUES)
    elif not isinstance(tensor, dict):
        document["inputs"] = []
    elif kind == 1:
        tensor[rng.choice(("name", "shape", "datatype", "data"))] = rng.choice(VALUES)
    elif kind == 2 and tensor:
        del tensor[rng.choice(list(tensor))]
    elif kind == 3:
        tensor["shape"] = rng.choices(NUMBERS, k=rng.randrange(6))
    elif kind == 4:
        tensor["datatype"] = rng.choice(TYPES)
    elif kind == 5:
        tensor["parameters"] = {rng.choice(PARAMETERS): rng.choice(VALUES)}
    elif kind == 6:
        asked = {"name": rng.choice(TENSORS), "parameters": {rng.choice(PARAMETERS): 2}}
        document["outputs"] = [asked] * rng.randrange(1, 4)
    elif kind == 7:
        document["parameters"] = {rng.choice(PARAMETERS): rng.choice(VALUES)}
    elif isinstance(tensor.get("data"), list):
        tensor["data"] = [*tensor["data"][: rng.randrange(4)], rng.choice(VALUES)]


def damaged(rng: random.Random) -> bytes:
    """An image of the samples in one of several formats, with bytes changed, cut or repeated."""
    image = Image.open(io.BytesIO(rng.choice(IMAGES)))
    image.thumbnail((rng.choice((8, 64, 300)),) * 2)
    file = io.BytesIO()
    mode = rng.choice(("RGB", "L", "CMYK", "RGBA", "P"))
    form = rng.choice(("JPEG", "PNG", "WEBP"))
    fitting = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "RGBA", "P")}
    progressive = {"progressive": rng.random() < 0.5} if form == "JPEG" else {}
    mode = mode if mode in fitting.get(form, ("RGB", "RGBA")) else "RGB"
    image.convert(mode).save(file, form, **progressive)
    data = bytearray(file.getvalue())
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 64))
        kind = rng.random()
        if kind < 0.6:
            data[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind < 0.75:
            del data[at : at + rng.choice((1, 4, 100))]
        elif kind < 0.9:
            data[at:at] = data[at : at + rng.choice((1, 4, 1000))] * rng.choice((1, 50))
        else:
            del data[max(at, 8) :]
        data = data or bytearray(1)
    return bytes(data)


def good_answers(server: TritonServer, expected: dict[str, list[dict]], number: int) -> None:
    """Raises unless a good request to each model is answered as offline."""
    chosen = number % len(IMAGES)
    for model, answers in expected.items():
        for protocol in ("grpc", "http"):
            with TritonRunner(model, getattr(server, f"{protocol}_url"), protocol) as runner:
                found = runner.infer({"image": np.array([[IMAGES[chosen]]], np.object_)})
            assert same(found, answers[chosen]), f"{model}: another answer than offline"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository, expected = repository_of(options.models, Path(folder))
        names = list(expected)
        with serve(repository) as server, ThreadPoolExecutor(options.clients) as pool:
            pids = {server.pid, *children_of(server.pid)}
            hostile, before = Hostile(server, names), memory_mb(server)
            work = [(hostile.one, options.seed + i) for i in range(options.requests)]
            work += [
                (hostile.image, options.seed + i, names[i % len(names)])
                for i in range(options.images)
            ]
            for start in range(0, len(work), 40):
                for done in [pool.submit(*each) for each in work[start : start + 40]]:
                    done.result()
                if pids != {server.pid, *children_of(server.pid)}:
                    log = server.log_file.read_text()[-4000:]
                    raise AssertionError(f"ended before {start + 40}: {log}")
                good_answers(server, expected, start // 40)
            after = memory_mb(server)
    for outcome, count in sorted(hostile.counts.items()):
        print(f"{outcome}: {count}")
    print(f"slowest {hostile.slowest[0]:.1f} s ({hostile.slowest[1]}); good between: ", end="")
    print(f"{2 * len(names) * -(-len(work) // 40)}; memory {before:.0f} MB, then {after:.0f} MB")
    sys.exit(int(hostile.slowest[0] > LONGEST_S))


if __name__ == "__main__":
    main()
