"""`batch`: many images to Parquet, each exactly once whatever is killed."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cores import usable_cores
from ..errors import BadInput, StageFailed
from ..files import locked, staged, write_text
from ..options import from_fields
from ..progress import image_bar, note, spinner
from ..provenance import now, tool_versions
from . import engines, triton_requests
from .exports import check_export, write_export
from .images import arrow
from .options import BatchEngine, BatchOptions
from .plan import RECORD, BatchRecord, Plan, ShardTables, open_plan
from .worker import open_model

_ENGINES = {
    BatchEngine.LOCAL: engines.answer_locally,
    BatchEngine.RAY: engines.answer_on_ray,
    BatchEngine.TRITON: triton_requests.answer_on_triton,
}

_TOOLS = ("dfvt-deploy", "numpy", "pillow", "opencv-python-headless", "pyarrow", "openvino", "ray")


@dataclass(frozen=True)
class BatchRun:
    """A finished run. `images_per_second`: of this call, the start of its workers included."""

    output: Path
    record: BatchRecord
    images_per_second: float


@from_fields(BatchOptions, "input", "model", "output")
def batch(options: BatchOptions) -> BatchRun:
    """Answer many images and write Parquet: `results/`, `failures/`, and the record `batch.json`. A
    run that was stopped or killed goes on where it was when it is called again. Raises BadInput
    where the options, the input or the model cannot be used, or the output is of another run;
    StageFailed where a worker, an object store or Ray failed, or no image has an answer;
    ServerFailed where no server answers."""
    arrow()
    wanted = _record(options)
    for kind in options.export:
        check_export(f"--export {kind}", wanted.task)
    with _only_run(options):
        with spinner("batch: looking for images"):
            plan = open_plan(options, wanted, options.workers or usable_cores())
        started, images = time.perf_counter(), 0
        left = sum(len(shard.names) for shard in plan.shards(pending=True))
        if done := plan.record.images - left:
            note(f"{done:,} of {plan.record.images:,} images were done before")
        if left:
            answers: Any = _ENGINES[options.engine](options, plan.shards(pending=True))
            with closing(answers), image_bar("batch", plan.record.images, done) as advance:
                for tables in answers:
                    _write(plan, tables)
                    images += tables.images
                    advance(tables.images)
        rate = images / (time.perf_counter() - started)
        plan = Plan(plan.folder, _counted(plan))
        write_text(plan.folder / RECORD, plan.record.as_text())
        for kind in options.export:
            note(f"wrote {write_export(kind, plan)}")
    return BatchRun(options.output, plan.record, rate)


def _record(options: BatchOptions) -> BatchRecord:
    facts: dict[str, Any] = {}
    if options.engine is BatchEngine.TRITON:
        facts["task"] = triton_requests.served_model_task(options)
    else:
        artifact, path = open_model(options)
        manifest, name = artifact.manifest, path.name
        facts = {"task": manifest.task, "labels": manifest.labels, "file": name}
        facts["sha256"] = manifest.files[name].sha256
        facts["verdict"] = artifact.verdict(name, options.precision)
    return BatchRecord(
        command=options.command_line(),
        settings={},
        model=options.model,
        versions=tool_versions(*_TOOLS),
        created=now(),
        **facts,
    )


@contextmanager
def _only_run(options: BatchOptions) -> Iterator[None]:
    """Make the output folder, and hold it for this process alone."""
    folder, source = options.output.resolve(), Path(options.input).resolve()
    if source.is_dir() and source in (folder, *folder.parents):
        raise BadInput(f"--output {options.output} is in the input folder; give another one")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder, wait=False):
            yield
    except BlockingIOError:
        raise BadInput(
            f"another run writes into {options.output}; wait for it, or give another --output"
        ) from None


def _write(plan: Plan, tables: ShardTables) -> None:
    """Write the tables of a shard, the results last."""
    results, failures = plan.tables(tables.number)
    failures.unlink(missing_ok=True)  # of a process that was killed before the results
    for path, content in ((failures, tables.failures), (results, tables.results)):
        if content:
            with staged(path) as temporary:
                temporary.write_bytes(content)


def _counted(plan: Plan) -> BatchRecord:
    """The record of the finished run; StageFailed where its rows do not add up, or none answers."""
    read, answered, failed, reason = arrow().parquet, 0, 0, ""
    for shard in plan.shards(pending=False):
        paths = plan.tables(shard.number)
        good, bad = (read.read_metadata(p).num_rows if p.exists() else 0 for p in paths)
        if good + bad != len(shard.names):
            raise StageFailed(
                f"{paths[0]} and {paths[1]} have {good + bad} rows for {len(shard.names)} images; "
                "remove both and run the same command again"
            )
        answered, failed = answered + good, failed + bad
        if bad and not reason:
            reason = read.read_table(paths[1])["reason"][0].as_py()
    if not answered:
        raise StageFailed(f"none of {failed:,} images has an answer; the first: {reason}")
    counts = {"answered": answered, "failed": failed}
    return plan.record.model_copy(update={"finished": plan.record.finished or now(), **counts})
