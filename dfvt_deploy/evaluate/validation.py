"""`validate`: how much was lost between PyTorch and a served answer, where, and if it may be."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifact import Artifact, Manifest, Verdict, now, open_artifact, update_manifest
from ..data import SAMPLES
from ..errors import ArtifactError, BadInput
from ..files import locked, staged
from ..progress import stage
from ..runners.triton import Protocol
from ..types import Precision
from . import passing, planning, provenance
from .account import Account, account_of, class_changes, concluded, judged_hops
from .planning import Live, Plan
from .request import Against, Device, Request
from .store import ResultStore
from .verdict import HopResult, ImageChange, LayerComparison, Validation, failed_in_step

if TYPE_CHECKING:
    from .datasets import Dataset, Kind

#: Results of single images, in the folder of the model.
RESULTS = "validation"

_MOST_WORKERS = 4


def validate(
    model: str | Path,
    *,
    checkpoint: str | Path | None = None,
    precisions: Sequence[Precision | str] | None = None,
    engines: Sequence[str] | None = None,
    serve: bool = False,
    repository: str | Path = "model_repository",
    url: str | None = None,
    protocol: Protocol = "grpc",
    served: str | None = None,
    dataset: Kind | None = None,
    data: str | Path | None = None,
    images: str | Path | None = None,
    limit: int | None = None,
    max_drop: float | None = None,
    against: Against = "fp32",
    device: Device = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    layers: str | None = None,
    fresh: bool = False,
) -> Validation:
    """Pass the same images through every form of a model and compare each with the one before it
    and with the float32 PyTorch model.

    The verdict about each file goes into the manifest, a report (HTML and JSON) beside it. Results
    of single images are stored as they come; a run that was interrupted goes on where it stopped.
    A gate that fails is a result, not an error; see `Validation.outcome`.

    Args:
        model: folder of the exported model (`exports/<name>`).
        checkpoint: the file it was exported from (or `published`); found by itself for untrained
            and published weights, and in the working directory.
        precisions: of the converted files to include; all that exist by default.
        engines: file names of TensorRT plans; by default all that exist and run here.
        serve: start a server on `repository` and include what it serves.
        url: `host:port` of a running server instead.
        served: with `url`, the file behind the server's network; `model.onnx` by default.
        dataset: kind of the labelled images in `data`; see docs/datasets.md.
        images: a folder of images without labels; the package's samples by default.
        limit: most images, evenly spread.
        max_drop: points that the dataset's metric may fall by; needs labels.
        against: `fp32`, the PyTorch model, or `onnx`, model.onnx where the checkpoint is not at
            hand; no verdict is recorded then.
        device: of PyTorch and onnxruntime.
        workers: threads that decode and preprocess.
        threads: of one operator in onnxruntime and PyTorch.
        layers: also compare the inner tensors of this hop's ONNX file with those of model.onnx.
        fresh: forget stored results.

    Raises:
        BadInput: options, files or images that cannot be used, with what to do.
        StageFailed: a form of the model cannot be run.
        ServerFailed: the server did not start, died, or does not answer.
    """
    started = time.perf_counter()
    request = Request(
        checkpoint=checkpoint,
        precisions=None if precisions is None else tuple(Precision(p) for p in precisions),
        engines=engines,
        serve=serve,
        repository=Path(repository),
        url=url,
        protocol=protocol,
        served=served,
        dataset=dataset,
        data=None if data is None else Path(data),
        images=None if images is None else Path(images),
        limit=limit,
        max_drop=max_drop,
        against=against,
        device=device,
        workers=workers,
        threads=threads,
        layers=layers,
    )
    artifact = open_artifact(model)
    chosen = _dataset(artifact.manifest, request)
    with ExitStack() as stack, _torch_threads(request):
        live = _live(artifact, request, stack)
        plan = planning.plan(artifact, request, live, stack)
        _check_layers(request, plan)
        key = provenance.results_key(artifact, plan, request, live, chosen)
        account = _passed_through(artifact, plan, request, live, chosen, key, fresh)
        found = _found(artifact, plan, request, chosen, account)
        found = found.model_copy(update={"seconds": round(time.perf_counter() - started, 1)})
        return _recorded(found, artifact, plan, request, chosen, key)


def _dataset(manifest: Manifest, request: Request) -> Dataset:
    from .datasets import open_dataset

    kind = request.dataset or "images"
    data = request.data or request.images or SAMPLES
    with stage("checking the images"):
        return open_dataset(kind, data, manifest, request.limit)


@contextmanager
def _torch_threads(request: Request) -> Iterator[None]:
    if request.threads is None or request.against != "fp32":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _live(artifact: Artifact, request: Request, stack: ExitStack) -> Live | None:
    if request.serve:
        from ..serving.server import TritonServer

        file = planning.served_file(artifact, request.repository)
        server = stack.enter_context(TritonServer(request.repository))
        url = server.grpc_url if request.protocol == "grpc" else server.http_url
        return Live(url, request.protocol, file, request.repository)
    if request.url is None:
        return None
    served = request.served or "model.onnx"
    if served not in artifact.manifest.files:
        raise ArtifactError(
            f"--served {served} is none of {', '.join(artifact.manifest.files)} in "
            f"{artifact.directory}"
        )
    return Live(request.url, request.protocol, served)


def _check_layers(request: Request, plan: Plan) -> None:
    comparable = [hop.name for hop in plan.hops if hop.changes]
    if request.layers is not None and request.layers not in comparable:
        raise BadInput(
            f"--layers {request.layers} is none of {', '.join(comparable) or 'the hops here'}: "
            "inner tensors are compared between model.onnx and an ONNX file made from it"
        )


def _passed_through(
    artifact: Artifact,
    plan: Plan,
    request: Request,
    live: Live | None,
    dataset: Dataset,
    key: str,
    fresh: bool,
) -> Account:
    """Pass the images that have no stored result through the hops, and add all up."""
    from .metrics import METRICS

    metric = METRICS[artifact.manifest.task] if request.dataset else None
    workers = request.workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    folder = artifact.directory / RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.jsonl"
    with locked(folder):
        # What a server behind a URL serves may be another model by now.
        elsewhere = live is not None and live.repository is None
        if fresh or (elsewhere and _complete(path, dataset)):
            path.unlink(missing_ok=True)
        with ResultStore(path) as store:
            keys = passing.run_hops(plan.hops, plan.steps, dataset.samples, metric, store, workers)
            return account_of(plan, artifact.manifest.task, metric, store, keys)


def _complete(path: Path, dataset: Dataset) -> bool:
    """Whether every image has a stored result."""
    if not path.is_file():
        return False
    with ResultStore(path) as store:
        return all((s.id, passing.sample_digest(s)) in store for s in dataset.samples)


def _found(
    artifact: Artifact, plan: Plan, request: Request, dataset: Dataset, account: Account
) -> Validation:
    manifest = artifact.manifest
    reference = plan.hops[0].name
    with stage(f"{manifest.name}: judging {account.images:,} images"):
        judged = judged_hops(plan, artifact, account, request.max_drop)
    guilty, outcome, reason = concluded(list(judged.values()), account)
    shown = guilty if guilty in judged and guilty != reference else plan.hops[-1].name
    command = request.command(artifact)
    return Validation(
        model=manifest.name,
        task=manifest.task,
        created=now(),
        command=command,
        commands=(
            manifest.command,
            *(record.command for record in manifest.conversions.values()),
            command,
        ),
        outcome=outcome,
        guilty=guilty,
        reason=reason,
        reference=plan.hops[0].title,
        dataset=dataset.name if request.dataset is None else f"{dataset.name} ({dataset.kind})",
        images=account.images,
        metric=account.metric.names[0] if account.metric else None,
        max_drop=request.max_drop,
        hops=tuple(judged.values()),
        not_run=tuple(plan.not_run),
        unjudged=tuple(account.unjudged),
        refused=account.refusals,
        shown=shown,
        classes=class_changes(
            manifest.task,
            account.metric,
            manifest.labels,
            account.hops[reference],
            account.hops[shown],
        ),
        changed=tuple(
            ImageChange(image=image, change=round(change, 6))
            for change, _, image in sorted(account.hops[shown].worst, reverse=True)
            if change > 0
        ),
        layers=_layers(artifact, plan, request, dataset),
        notes=provenance.notes(manifest, dataset, request),
        checkpoint=provenance.checkpoint_text(manifest),
        versions=provenance.versions(manifest),
        hardware=provenance.hardware(request.device),
        seconds=0,
    )


def _layers(
    artifact: Artifact, plan: Plan, request: Request, dataset: Dataset
) -> LayerComparison | None:
    if request.layers is None:
        return None
    from .layers import compare_layers

    with stage(f"{request.layers}: comparing inner tensors"):
        hop = plan.find(request.layers)
        return compare_layers(artifact, hop, plan.steps, dataset.samples, request.threads)


def _recorded(
    found: Validation,
    artifact: Artifact,
    plan: Plan,
    request: Request,
    dataset: Dataset,
    key: str,
) -> Validation:
    """Write the reports, then the verdicts into the manifest."""
    from .report import drawn_changes, html_report

    names = {kind: f"validation-{key}.{kind}" for kind in ("json", "html")}
    found = found.model_copy(update={"reports": names})
    samples = {sample.id: sample for sample in dataset.samples}
    with stage(f"{found.model}: drawing the images that changed most"):
        pictures = drawn_changes(found, plan, samples)
    with (
        staged(artifact.directory / names["json"]) as json_file,
        staged(artifact.directory / names["html"]) as html_file,
    ):
        json_file.write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")
        html_file.write_text(html_report(found, pictures), encoding="utf-8")
    if request.against == "fp32":
        update_manifest(artifact.directory, lambda manifest: with_verdicts(manifest, found))
    return found


def with_verdicts(manifest: Manifest, found: Validation) -> Manifest:
    """The manifest with a verdict for each file that was judged and is still the same.

    What a hop before a file broke, the file has in it, whatever the dataset says. A gate's verdict
    on a file is not undone by a run without a gate that passes.
    """
    verdicts = dict(manifest.verdicts)
    for hop in found.hops:
        if hop.file is None or hop.outcome == "reference":
            continue
        record = manifest.files.get(hop.file)
        if record is None or record.sha256 != hop.sha256:
            continue
        outcome = "failed" if found.refused or _broken_before(found, hop) else hop.outcome
        stands = Artifact(Path(), manifest).verdict(hop.file)
        if outcome == "passed" and hop.gate is None and stands is not None and stands.by_gate:
            continue
        verdicts[hop.file] = Verdict(
            verdict=outcome,
            file_sha256=record.sha256,
            created=found.created,
            command=found.command,
            dataset=found.dataset,
            images=found.images,
            metric=found.metric or "agreement",
            figures=_verdict_figures(hop),
            report=found.reports["json"],
        )
    return manifest.model_copy(update={"verdicts": verdicts})


def _broken_before(found: Validation, hop: HopResult) -> bool:
    """Whether a hop on the way to this one changed what it should not."""
    while hop.source is not None:
        hop = found.hop(hop.source)
        if failed_in_step(hop):
            return True
    return False


def _verdict_figures(hop: HopResult) -> dict[str, float]:
    if hop.gate is not None:
        gate = hop.gate
        return {"drop": gate.drop, "upper_bound": gate.upper_bound, "limit": gate.limit}
    return {check.name: check.figure for check in hop.total_checks}
