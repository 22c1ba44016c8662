"""Processes that write one export folder and are killed, or that write it at the same time.

Run as a script with the folder of an exported model; see `test_export_folders.py`. It forks, so it
must have no threads.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from dfvt_deploy import files
from dfvt_deploy.artifact import file_record, open_artifact, update_manifest, write_artifact
from dfvt_deploy.files import staging_directory
from dfvt_deploy.manifest import Manifest
from dfvt_deploy.types import Precision

#: Calls before and after which a process is killed.
CALLS = ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync")


def export(directory: Path, manifest: Manifest, content: bytes) -> None:
    """What `export` does at its end: put a new model.onnx and its manifest in place."""
    with staging_directory(directory) as staging:
        file = staging / "model.onnx"
        file.write_bytes(content)
        record = file_record(file, Precision.FP32, "dfvt-deploy export")
        new = manifest.model_copy(
            update={"files": {file.name: record}, "command": content.decode()}
        )
        write_artifact(directory, new, {file.name: file})


def convert(directory: Path, content: bytes) -> None:
    """What `convert` does at its end: put a new FP16 file in place and list it."""
    with staging_directory(directory) as staging:
        file = staging / "model.fp16.onnx"
        file.write_bytes(content)

        def listed(old: Manifest) -> Manifest:
            record = file_record(
                file,
                Precision.FP16,
                "dfvt-deploy convert",
                source_sha256=old.files["model.onnx"].sha256,
            )
            return old.model_copy(update={"files": {**old.files, file.name: record}})

        update_manifest(directory, listed, {file.name: file})


def state(directory: Path) -> dict[str, bytes]:
    """The content of the listed files; raises ArtifactError unless all of them are whole."""
    manifest = open_artifact(directory).manifest
    assert manifest.command.encode() == (directory / "model.onnx").read_bytes()
    return {name: (directory / name).read_bytes() for name in sorted(manifest.files)}


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that kills itself at its number-th call of CALLS; False where it makes
    fewer calls."""
    if (child := os.fork()) == 0:
        left = number

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        def counted(call: Callable[..., object]) -> Callable[..., object]:
            def inner(*arguments: object, **options: object) -> object:
                count()
                result = call(*arguments, **options)
                count()
                return result

            return inner

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        files._exchange = counted(files._exchange)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL
    return status != 0


def killed_everywhere(directory: Path) -> int:
    """Kill an export and a conversion at each of their calls; the number of kills."""
    manifest = open_artifact(directory).manifest
    kills = 0
    for name, work in (
        ("model.onnx", lambda: export(directory, manifest, b"new")),
        ("model.fp16.onnx", lambda: convert(directory, b"new")),
    ):
        seen = set()
        for number in range(1, 1000):
            export(directory, manifest, b"old")
            convert(directory, b"old")
            before = state(directory)
            killed = killed_at(number, work)
            after = state(directory)
            assert after in (before, {**before, name: b"new"}), after
            seen.add(after[name])
            kills += killed
            if not killed:
                break
        assert seen == {b"old", b"new"}
    export(directory, manifest, b"last")
    return kills


def written_in_parallel(directory: Path, rounds: int) -> None:
    """Two exports, a conversion and a reader at once, again and again."""
    manifest = open_artifact(directory).manifest
    export(directory, manifest, b"first")
    for _ in range(rounds):
        works: tuple[Callable[[], object], ...] = (
            lambda: export(directory, manifest, b"first"),
            lambda: export(directory, manifest, b"second"),
            lambda: convert(directory, b"derived"),
            lambda: state_of_one_moment(directory),
        )
        children = []
        for work in works:
            if (child := os.fork()) == 0:
                try:
                    work()
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                os._exit(0)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
        assert state(directory)["model.onnx"] in (b"first", b"second")


def state_of_one_moment(directory: Path) -> None:
    for _ in range(20):
        open_artifact(directory)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    written_in_parallel(folder, rounds=15)
    kills = killed_everywhere(folder)
    left = sorted(path.name for path in folder.parent.rglob("*"))
    sys.stdout.write(json.dumps({"kills": kills, "left": left}))
