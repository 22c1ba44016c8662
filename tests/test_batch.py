"""`batch`: each image in one row of answers or failures, whatever is killed, on every engine."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dfvt_deploy.batches import run, triton_requests
from dfvt_deploy.batches.images import image_names, read_images
from dfvt_deploy.batches.run import _write, batch
from dfvt_deploy.errors import BadInput, ServerFailed, StageFailed
from dfvt_deploy.files import locked
from dfvt_deploy.pipeline import Pipeline
from dfvt_deploy.runners.onnx_runtime import OnnxRuntimeRunner
from dfvt_deploy.serving.client import predict
from dfvt_deploy.serving.server import serve
from dfvt_deploy.tasks import rle
from dfvt_deploy.tasks.images import decode_image
from dfvt_deploy.types import Task

from .fixtures import encoded, json_document, photograph
from .test_remote import s3  # noqa: F401

#: Makes a worker slow enough to be killed at work, and one image end its process.
SLOW_AND_POISONED = """
import os, time, PIL.Image
opened = PIL.Image.open
def open_slowly(file, *args, **options):
    time.sleep(0.02)
    if file.getvalue() == b"poison":
        os.kill(os.getpid(), 9)
    return opened(file, *args, **options)
PIL.Image.open = open_slowly
"""
GOOD, BAD = 60, 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Good images, and bad ones among them."""
    folder = tmp_path_factory.mktemp("batch") / "my photos"
    (folder / "more").mkdir(parents=True)
    for i in range(GOOD):
        path = folder / ("more" if i % 2 else "") / f"{i:03}.jpg"
        path.write_bytes(encoded(photograph(48 + i, 40, seed=i)))
    (folder / "cut.jpg").write_bytes(encoded(photograph(64, 64))[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "huge.png").write_bytes(encoded(Image.new("1", (9000, 8000)), "PNG"))
    (folder / ".hidden.jpg").write_text("left out")
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def expected(artifact_t, photos) -> dict[str, list[float]]:
    """The scores of the good images, without any engine."""
    pipeline, scores = Pipeline(artifact_t.manifest), {}
    with OnnxRuntimeRunner(artifact_t.onnx_path(), threads=1) as runner:
        for path in photos.rglob("[0-9]*.jpg"):
            inputs = pipeline.prepare(decode_image(path.read_bytes()))
            answers = pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))
            scores[str(path)] = answers["scores"][0].tolist()
    return scores


def rows(folder: Path, table: str) -> list[dict]:
    return pq.read_table(folder / table).to_pylist() if (folder / table).is_dir() else []


def check(output: Path, expected: dict, bad: int = BAD) -> None:
    """Each image is in one row, the good ones with the expected scores."""
    answered, failed = rows(output, "results"), rows(output, "failures")
    assert sorted(row["index"] for row in answered + failed) == list(range(len(expected) + bad))
    assert {row["image"] for row in answered} == expected.keys()
    for row in answered:
        np.testing.assert_allclose(row["scores"], expected[row["image"]], atol=1e-6)
    assert len(failed) == bad and all(row["reason"] for row in failed)
    record = json.loads((output / "batch.json").read_text())
    assert (record["answered"], record["failed"]) == (len(expected), bad)
    assert not list(output.rglob(".*"))


def command(photos, artifact, output, *words) -> list[str]:
    model, exports = artifact.manifest.name, artifact.directory.parent
    given = ["--model", model, "--exports", exports, "--output", output, *words]
    return [sys.executable, "-m", "dfvt_deploy", "batch", str(photos), *map(str, given)]


def descendants(ancestor: int) -> dict[int, str]:
    """The command lines of a process's children and of theirs, by number."""
    above: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            above[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended
    found: dict[int, str] = {}
    generation = {ancestor}
    while generation := {pid for pid, parent in above.items() if parent in generation}:
        for pid in generation:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_text()
            except OSError:
                continue
            found[pid] = line.replace("\0", " ")
    return found


def run_and_kill(words, environment, output, victim: str) -> tuple[int, dict[int, str]]:
    """Start a command; after its first tables kill one of its processes, after the next ones the
    command. Returns the tables there were, and the processes that it had."""
    with subprocess.Popen(words, env=environment, start_new_session=True) as driver:

        def wait_for(tables: int) -> None:
            while len([*output.glob("results/shard-*")]) < tables:
                assert driver.poll() is None, "the command ended too early"
                time.sleep(0.01)

        wait_for(1)
        processes = descendants(driver.pid)
        os.kill(next(pid for pid, line in processes.items() if victim in line), signal.SIGKILL)
        wait_for(3)
        processes |= descendants(driver.pid)
        driver.kill()
    return len([*output.glob("results/shard-*")]), processes


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Of a command whose workers are slow and die of one image."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(SLOW_AND_POISONED)
    path = f"{tmp_path / 'patch'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    return {**os.environ, "PYTHONPATH": path}


def still_there(processes: dict[int, str]) -> list[str]:
    """Those processes that still run, some time after their parent was killed."""
    for _ in range(1200):
        left = [
            line
            for pid, line in processes.items()
            if line and Path(f"/proc/{pid}").exists() and line.split()[0] in cmdline(pid)
        ]
        if not left:
            break
        time.sleep(0.1)
    return left


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_local_goes_on_after_kills_and_past_an_image_that_kills(
    photos, artifact_t, expected, environment, tmp_path
):
    output = tmp_path / "the answers"
    words = command(photos, artifact_t, output, "--workers", 2)
    poison = photos / "poison.jpg"
    poison.write_bytes(b"poison")
    try:
        done, processes = run_and_kill(words, environment, output, "batches.worker")
        assert not still_there(processes)
        before = {path: path.stat().st_mtime_ns for path in output.glob("results/shard-*")}
        ended = subprocess.run([*words, "--json"], env=environment, capture_output=True, text=True)
    finally:
        poison.unlink()

    assert ended.returncode == 0, ended.stderr
    assert f"{GOOD + BAD + 1} images were done before" in ended.stderr
    assert 3 <= done == len(before) < json_document("batch", ended.stdout)["shards"]
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    check(output, expected, BAD + 1)
    reasons = {Path(row["image"]).name: row["reason"] for row in rows(output, "failures")}
    assert "its process ended 3 times (exit code -9)" in reasons["poison.jpg"]
    assert "No such file" in reasons["dangling.jpg"]
    assert "not a regular file" in reasons["pipe.jpg"]
    assert "72,000,000 pixels, the limit is 50,000,000" in reasons["huge.png"]


def test_ray_goes_on_after_kills(photos, artifact_t, expected, environment, tmp_path):
    output = tmp_path / "answers"
    words = command(photos, artifact_t, output, "--engine", "ray", "--workers", 2)
    _, processes = run_and_kill(words, environment, output, "ShardActor")
    assert any("raylet" in line for line in processes.values())
    # Processes of Ray's own that are not its raylet take minutes to find out.
    ours = {i: x for i, x in processes.items() if "ShardActor" in x or not x.startswith("ray::")}
    assert not still_there(ours)

    ended = subprocess.run(words, env=environment, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr
    assert f"{len(expected)} of {GOOD + BAD} images answered" in ended.stdout
    going_on = shlex.split(ended.stdout.splitlines()[-1].removeprefix("next: "))
    shown = subprocess.run([sys.executable, *going_on[1:]], capture_output=True, text=True)
    assert "reason: " in shown.stdout, shown.stderr
    check(output, expected)


def test_triton_goes_on_when_a_server_is_lost(photos, server, repository, expected, tmp_path):
    name, output = "dfvt_t_classification", tmp_path / "answers"
    with ThreadPoolExecutor(1) as pool:
        with serve(repository) as other:
            urls = ("127.0.0.1:1", other.grpc_url, server.grpc_url)
            running = pool.submit(
                batch, photos, name, output, engine="triton", url=urls, in_flight=1
            )
            while not [*output.glob("results/shard-*")] and not running.done():
                time.sleep(0.01)
        done = running.result()

    check(output, expected)
    one = next(iter(expected))
    (answer,) = predict([one], name, url=server.grpc_url)
    (row,) = (row for row in rows(output, "results") if row["image"] == one)
    assert row["labels"] == answer.outputs["labels"].tolist()
    assert done.record.task == "classification"


def test_triton_waits_no_longer_than_its_patience(photos, server, tmp_path, monkeypatch):
    monkeypatch.setattr(triton_requests, "PATIENCE", 0.2)
    task = Task.CLASSIFICATION
    monkeypatch.setattr(triton_requests, "served_model_task", lambda _: task)
    arguments = {"engine": "triton", "url": ("127.0.0.1:1",)}
    with pytest.raises(ServerFailed, match=r"no image was answered for 0\.2 s.*the same command"):
        batch(photos, "dfvt_t_classification", tmp_path / "answers", **arguments)
    with pytest.raises(ServerFailed):
        monkeypatch.undo()
        batch(photos, "dfvt_t_classification", tmp_path / "answers", **arguments)


@pytest.fixture(scope="module")
def finished(photos, artifact_t, tmp_path_factory):
    """A finished run of two images."""
    folder = tmp_path_factory.mktemp("finished")
    paths = [*photos.rglob("00[01].jpg")]
    (folder / "list.txt").write_text("\n".join(map(str, [*paths, paths[0], ""])))
    options = {"exports": artifact_t.directory.parent, "workers": 1, "export": ("fiftyone",)}
    batch(folder / "list.txt", artifact_t.manifest.name, folder / "answers", **options)
    return folder


def test_a_list_names_each_image_once_and_fiftyone_gets_samples(finished, expected):
    answered = rows(finished / "answers", "results")
    assert len(answered) == 2 and {row["image"] for row in answered} <= expected.keys()
    samples = json.loads((finished / "answers" / "fiftyone" / "samples.json").read_text())
    (first, _) = samples["samples"]
    assert first["filepath"] == answered[0]["image"]
    label, score = answered[0]["labels"][0], pytest.approx(answered[0]["scores"][0])
    assert first["predictions"] == {"_cls": "Classification", "label": label, "confidence": score}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "openvino"}, "another backend: onnxruntime, not openvino"),
        ({"max_bytes": 10**6}, "another max_bytes: 20971520, not 1000000"),
        ({"input": "photos"}, "another input"),
        ({"images": 1}, "another images"),
        ({"busy": True}, "another run writes into"),
        ({"export": ("coco",)}, "--export coco is for detection"),
    ],
    ids=str,
)
def test_another_run_into_the_same_folder_is_refused(finished, artifact_t, photos, change, message):
    source = finished / "list.txt"
    given = {"exports": artifact_t.directory.parent, "workers": 1}
    text = source.read_text()
    if change.pop("images", None):
        source.write_text(text + str(photos / "cut.jpg"))
    if change.pop("input", None):
        source = photos
    try:
        with pytest.raises(BadInput, match=message):
            if change.pop("busy", None):
                with locked(finished / "answers"):
                    batch(source, "dfvt_t_classification", finished / "answers", **given)
            batch(source, "dfvt_t_classification", finished / "answers", **given | change)
    finally:
        (finished / "list.txt").write_text(text)


def test_output_and_model_that_cannot_be_used_are_refused_before_any_work(
    photos, artifact_t, tmp_path
):
    given = {"exports": artifact_t.directory.parent}
    name = artifact_t.manifest.name
    with pytest.raises(BadInput, match="is in the input folder"):
        batch(photos, name, photos / "more" / "answers", **given)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="holds other files"):
        batch(photos, name, tmp_path / "other", **given)
    with pytest.raises(BadInput, match="does not exist"):
        batch(tmp_path / "nothing", name, tmp_path / "answers", **given)
    with pytest.raises(BadInput, match="names no image"):
        batch(tmp_path / "other", name, tmp_path / "answers", **given)
    with pytest.raises(BadInput, match="holds no model"):
        batch(photos, "dfvt_x", tmp_path / "answers", **given)


def test_no_answer_at_all_is_a_failure(artifact_t, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    given = {"exports": artifact_t.directory.parent, "workers": 1}
    with pytest.raises(StageFailed, match="none of 1 images has an answer; the first: image is"):
        batch(str(tmp_path / "*.jpg"), artifact_t.manifest.name, tmp_path / "answers", **given)
    assert len(rows(tmp_path / "answers", "failures")) == 1


def test_a_full_disk_ends_the_workers_and_loses_nothing(photos, artifact_t, tmp_path, monkeypatch):
    answered = []

    def write(plan, tables):
        if answered:
            raise OSError(errno.ENOSPC, "No space left on device", "shard")
        answered.append(tables)
        _write(plan, tables)

    given = {"exports": artifact_t.directory.parent, "workers": 1}
    name, source = artifact_t.manifest.name, str(photos / "more" / "0[0-2]*.jpg")
    monkeypatch.setattr(run, "_write", write)
    with pytest.raises(OSError, match="No space left"):
        batch(source, name, tmp_path / "answers", **given)
    assert not [line for line in descendants(os.getpid()).values() if "batches.worker" in line]
    monkeypatch.undo()
    batch(source, name, tmp_path / "answers", **given)
    assert len(rows(tmp_path / "answers", "results")) == 15


def read(names, column=None):
    return [x if isinstance(x, bytes) else str(x) for x in read_images(names, column, 1000)]


def test_parquet_gives_its_rows_in_pieces(tmp_path):
    file = tmp_path / "some.parquet"
    images = [b"%d" % i if i != 7 else None for i in range(25)]
    table = pa.table({"image": [{"bytes": i, "path": "x"} for i in images], "n": range(25)})
    pq.write_table(table, file, row_group_size=10)

    names = [*image_names(str(tmp_path), None)]

    assert names == [f"{file}#{i}" for i in range(25)]
    assert read(names[5:22]) == [i or "the row holds nothing" for i in images[5:22]]
    assert read([names[1], names[13]], "image.bytes") == [b"1", b"13"]
    with pytest.raises(BadInput, match=r"no column n of bytes or paths; give --column one of: im"):
        next(image_names(str(file), "n"))
    content = bytearray(file.read_bytes())
    content[4:300] = bytes(296)
    file.write_bytes(content)
    assert all("cannot be read" in reason for reason in read(names[:3]))


def test_parquet_of_paths_and_damaged_parquet(tmp_path, photos):
    file = tmp_path / "paths.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", str(photos / "empty.png")], "n": [1, 2]}), file)
    names = [*image_names(str(file), None)]
    assert names == [str(Path("a.jpg").absolute()), str(photos / "empty.png")]
    assert read(names[1:]) == [b""]
    file.write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="cannot be read as Parquet"):
        next(image_names(str(file), None))


def test_s3_gives_folders_patterns_lists_and_parquet(s3, photos):  # noqa: F811
    import fsspec

    root = f"{s3}/photos"
    store, path = fsspec.core.url_to_fs(root, skip_instance_cache=True)
    store.pipe({f"{path}/{i}.jpg": b"%d" % i for i in range(3)} | {f"{path}/x.csv": b""})
    with store.open(f"{path}/rows/r.parquet", "wb") as file:
        pq.write_table(pa.table({"data": [b"row"]}), file)
    store.pipe(f"{path}/list.txt", f"{root}/1.jpg\n{root}/1.jpg\n{root}/9.jpg\n".encode())

    names = [*image_names(root, None)]
    assert names == [f"{root}/{i}.jpg" for i in range(3)] + [f"{root}/rows/r.parquet#0"]
    assert read(names) == [b"0", b"1", b"2", b"row"]
    assert [*image_names(f"{root}/[01].jpg", None)] == names[:2]
    listed = [*image_names(f"{root}/list.txt", None)]
    assert listed == [f"{root}/1.jpg", f"{root}/9.jpg"]
    assert read(listed)[0] == b"1" and "cannot be read" in read(listed)[1]


def answers_of(artifact, data: bytes) -> dict[str, np.ndarray]:
    pipeline = Pipeline(artifact.manifest)
    with OnnxRuntimeRunner(artifact.onnx_path(), threads=1) as runner:
        inputs = pipeline.prepare(decode_image(data))
        return pipeline.postprocess(inputs, runner.infer(pipeline.feed(inputs)))


def test_detections_are_coco_columns_and_results(detection_artifact_t, tmp_path):
    source = tmp_path / "000000000041.png"
    source.write_bytes(encoded(photograph(200, 12), "PNG"))
    given = {"exports": detection_artifact_t.directory.parent, "workers": 1}
    output = tmp_path / "answers"
    batch(source, "dfvt_t_detection", output, export=("coco", "fiftyone"), **given)

    (row,) = rows(output, "results")
    answers = answers_of(detection_artifact_t, source.read_bytes())
    n = answers["num_detections"].item()
    np.testing.assert_allclose(row["boxes"], answers["boxes"][0, :n], atol=1e-3)
    assert row["labels"] == [label.decode() for label in answers["labels"][0, :n]]
    assert row["masks"] == [json.loads(mask) for mask in answers["masks"][0, :n]]
    found = json.loads((output / "coco.json").read_text())
    assert len(found) == n > 0
    assert {one["image_id"] for one in found} == {41}
    assert max(one["category_id"] for one in found) <= 90
    assert rle.decode(found[0]["segmentation"]).shape == (12, 200)
    left, top, right, bottom = row["boxes"][0]
    assert found[0]["bbox"] == pytest.approx([left, top, right - left, bottom - top])
    (sample,) = json.loads((output / "fiftyone" / "samples.json").read_text())["samples"]
    one = sample["predictions"]["detections"][0]
    assert one["bounding_box"][:2] == pytest.approx([left / 200, top / 12])


def test_class_maps_are_png_bytes(shapes_artifact, tmp_path):
    source = tmp_path / "image.png"
    source.write_bytes(encoded(photograph(64, 48), "PNG"))
    given = {"exports": shapes_artifact.directory.parent, "workers": 1, "export": ("fiftyone",)}
    batch(source, "shapes", tmp_path / "answers", **given)

    (row,) = rows(tmp_path / "answers", "results")
    assert row["class_map"] == answers_of(shapes_artifact, source.read_bytes())["class_map"].item()
    (mask,) = tmp_path.glob("answers/fiftyone/masks/*.png")
    assert mask.read_bytes() == row["class_map"]
