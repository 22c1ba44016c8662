"""A process that answers shards with one model: `python -m dfvt_deploy.batches.worker HANDLE`.

It talks to its parent over the connection of that number, and ends when the connection closes,
however the parent ended. Before each image it sends the index, so that the parent knows which image
a process died of.
"""

import json
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from ..artifact import Artifact, open_artifact
from ..errors import DfvtError, StageFailed
from ..pipeline import Pipeline
from ..runners import InferenceFailed, network_file, open_network
from ..serving.tasks import served_task
from ..tasks.images import ImageLimits, decode_image
from ..types import Precision
from .images import read_images
from .options import BatchOptions
from .plan import Shard, ShardRows

#: The first byte of a worker's message: an index; three messages that are a shard's tables; an
#: error, after which the worker ends.
INDEX, TABLES, ERROR = b"i", b"t", b"e"


def open_model(options: BatchOptions) -> tuple[Artifact, Path]:
    """The exported model and its ONNX file that runs; BF16 is made of the FP32 file. Raises
    ArtifactError where a file is missing, stale or was changed."""
    of_file = Precision.FP32 if options.precision is Precision.BF16 else options.precision
    artifact = open_artifact(options.exports / options.model, of_file)
    return artifact, network_file(artifact, options.backend, options.precision)


def _serve(connection: Connection) -> None:
    """Answer the shards that the parent sends until it closes the connection."""
    import cv2

    content = json.loads(connection.recv_bytes())
    threads, options = content.pop("threads"), BatchOptions(**content)
    cv2.setNumThreads(threads)
    artifact, path = open_model(options)
    limits = ImageLimits(options.max_bytes, options.max_pixels)
    task = artifact.manifest.task
    served = served_task(task)
    answer_options = served.answer_options(artifact.manifest, None, limits.max_pixels)
    pipeline = Pipeline(artifact.manifest, answer_options)
    how = {"threads": threads, "streams": 1, "arena": served.arena, "spinning": False}
    with open_network(path, options.backend, options.precision, **how) as runner:
        while True:
            shard = Shard(**json.loads(connection.recv_bytes()))
            rows, named = ShardRows(shard, task), enumerate(shard.names, shard.first)
            tried = {i: name for i, name in named if str(i) not in shard.refused}
            images = read_images([*tried.values()], options.column, limits.max_bytes)
            for index in tried:
                connection.send_bytes(INDEX + str(index).encode())
                try:
                    if isinstance(image := next(images), DfvtError):
                        raise image
                    inputs = pipeline.prepare(decode_image(image, limits))
                    outputs = runner.infer(pipeline.feed(inputs))
                    rows.answer(index, pipeline.postprocess(inputs, outputs))
                except Exception as error:
                    if isinstance(error, StageFailed) and not isinstance(error, InferenceFailed):
                        raise  # An object store failed, not the image.
                    rows.fail(index, error)
            tables = rows.tables()
            for message in (TABLES, tables.results, tables.failures):
                connection.send_bytes(message)


def _main(connection: Connection) -> None:
    try:
        _serve(connection)
    except (EOFError, ConnectionError):  # The parent has ended, or wants no more.
        return
    except DfvtError as error:
        failure = [error.exit_code, str(error)]
    except Exception as error:
        failure = [StageFailed.exit_code, f"a worker failed: {type(error).__name__}: {error}"]
    with suppress(OSError):
        connection.send_bytes(ERROR + json.dumps(failure).encode())


if __name__ == "__main__":
    _main(Connection(int(sys.argv[1])))
