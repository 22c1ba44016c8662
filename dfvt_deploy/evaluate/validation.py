"""`validate`: how much was lost between PyTorch and a served answer, where, and whether it may be."""

from __future__ import annotations

import heapq
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..artifact import Artifact, Manifest, Verdict, now, open_artifact, update_manifest
from ..data import SAMPLES
from ..errors import ArtifactError, BadInput
from ..files import locked, sha256_of, staged
from ..progress import stage
from ..runners.triton import DEFAULT_URLS, Protocol
from ..types import Precision, Task
from . import passing, planning
from .agreement import Agreement
from .limits import checks
from .machine import hardware, versions
from .planning import Against, Choices, Device, Live, Plan
from .store import ResultStore, digest_of
from .verdict import (
    GateFigures,
    HopResult,
    ImageChange,
    LayerComparison,
    Outcome,
    Unjudged,
    Validation,
    guilty_of,
    judge,
)

if TYPE_CHECKING:
    from .datasets import Dataset, Kind
    from .metrics import Metric

#: Results of single images, in the folder of the model.
RESULTS = "validation"

#: Images that a report shows.
SHOWN_IMAGES = 6

#: Refused images that a result lists.
_LISTED = 20

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
    report: bool = True,
) -> Validation:
    """Pass the same images through every form of a model and compare each with the one before it
    and with the float32 PyTorch model.

    The verdict about each file goes into the manifest, a report beside it. Results of single
    images are stored as they come; a run that was interrupted goes on where it stopped.

    Args:
        model: folder of the exported model (`exports/<name>`).
        checkpoint: the file it was exported from (or `published`); found by itself for untrained
            and published weights.
        precisions: of the converted files to include; all that exist by default.
        engines: file names of TensorRT plans; by default all that exist and run here.
        serve: start a server on `repository` and include what it serves.
        url: `host:port` of a running server instead.
        served: with `url`, the file behind the server's network; `model.onnx` by default.
        dataset: kind of labelled images in `data`; see docs/datasets.md.
        images: a folder of images without labels; the package's samples by default.
        limit: most images, spread evenly.
        max_drop: points that the dataset's metric may fall by; needs labels.
        against: `fp32`, the PyTorch model, or `onnx`, model.onnx where the checkpoint is not at
            hand; no verdict is recorded then.
        device: of PyTorch and onnxruntime.
        workers: threads that decode and preprocess.
        threads: of one operator in onnxruntime and PyTorch.
        layers: also compare the inner tensors of this hop's ONNX file with those of model.onnx.
        fresh: forget stored results.
        report: write the HTML and JSON reports.

    Raises:
        BadInput: options, files or images that cannot be used, with what to do.
        StageFailed: a form of the model cannot be run.
        ServerFailed: the server did not start, died, or does not answer.
    """
    started = time.perf_counter()
    artifact = open_artifact(model)
    manifest = artifact.manifest
    _check_options(dataset, data, images, max_drop, serve, url, served, against, workers, threads)
    chosen = _dataset(manifest, dataset, data, images, limit)
    metric = _metric(manifest.task) if dataset else None
    choices = Choices(
        checkpoint,
        None if precisions is None else [Precision(p) for p in precisions],
        engines,
        against,
        device,
        threads,
    )
    workers = workers or min(_MOST_WORKERS, os.cpu_count() or 1)
    command = _command(locals())
    with ExitStack() as stack, _torch_threads(threads, against):
        live = _live(artifact, serve, Path(repository), url, protocol, served, stack)
        plan = planning.plan(artifact, choices, live, stack)
        key = _key(artifact, plan, choices, live, chosen)
        folder = artifact.directory / RESULTS
        folder.mkdir(exist_ok=True)
        path = folder / f"{key}.jsonl"
        stack.enter_context(locked(folder))
        if fresh or (live is not None and live.repository is None and _complete(path, chosen)):
            path.unlink(missing_ok=True)
        with ResultStore(path) as store:
            keys = passing.run_hops(plan.hops, plan.steps, chosen.samples, metric, store, workers)
            account = _account(plan, manifest.task, metric, store, keys)
        with stage(f"{manifest.name}: judging {account.images} images"):
            judged = _judged(plan, artifact, account, metric, max_drop)
        guilty, outcome, reason = _concluded(judged, account)
        shown = guilty if guilty in judged and judged[guilty].source else plan.hops[-1].name
        changed = _changed(shown, judged, account, chosen)
        validation = Validation(
            model=manifest.name,
            task=manifest.task,
            created=now(),
            command=command,
            commands=_commands(manifest, command),
            outcome=outcome,
            guilty=guilty,
            reason=reason,
            reference=plan.hops[0].title,
            dataset=f"{chosen.kind} {chosen.name}",
            images=account.images,
            metric=metric.names[0] if metric else None,
            max_drop=max_drop,
            hops=tuple(judged.values()),
            not_run=tuple(plan.not_run),
            unjudged=tuple(account.unjudged),
            shown=shown,
            changed=changed,
            layers=_layers(layers, plan, artifact, chosen, threads),
            notes=_notes(manifest, chosen, against, metric),
            labels=manifest.labels,
            checkpoint=_checkpoint(manifest),
            versions=versions(manifest),
            hardware=hardware(device),
            seconds=round(time.perf_counter() - started, 1),
        )
        if report:
            validation = _reported(validation, artifact, plan, chosen, key, against)
    return validation


def _check_options(
    dataset: str | None,
    data: str | Path | None,
    images: str | Path | None,
    max_drop: float | None,
    serve: bool,
    url: str | None,
    served: str | None,
    against: str,
    workers: int | None,
    threads: int | None,
) -> None:
    if dataset is not None and data is None:
        raise BadInput(f"--dataset {dataset} needs --data, the folder or file it is in")
    if dataset is None and data is not None:
        raise BadInput("--data needs --dataset imagenet, coco or ade20k; without labels: --images")
    if dataset is not None and images is not None:
        raise BadInput("--images is for images without labels; leave it out with --dataset")
    if max_drop is not None and dataset is None:
        raise BadInput(
            "--max-drop is in points of a dataset's metric and needs --dataset and --data; "
            "without labels the limits of agreement decide"
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise BadInput(f"--max-drop {max_drop:g} is outside 0..100 points")
    if serve and url is not None:
        raise BadInput("--serve starts a server, --url names a running one; give one of them")
    if served is not None and url is None:
        raise BadInput("--served is for --url; of a repository it is known")
    if against not in ("fp32", "onnx"):
        raise BadInput(f"--against {against!r} is neither fp32 nor onnx")
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and not 1 <= value <= 1024:
            raise BadInput(f"--{name} {value} is outside 1..1024")


def _dataset(
    manifest: Manifest,
    kind: Kind | None,
    data: str | Path | None,
    images: str | Path | None,
    limit: int | None,
) -> Dataset:
    from .datasets import open_dataset

    with stage("checking the images"):
        if kind is None:
            return open_dataset("images", Path(images or SAMPLES), manifest, limit)
        return open_dataset(kind, Path(data or ""), manifest, limit)


def _metric(task: Task) -> Metric:
    from .metrics import METRICS

    return METRICS[task]


@contextmanager
def _torch_threads(threads: int | None, against: Against) -> Iterator[None]:
    if threads is None or against != "fp32":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _live(
    artifact: Artifact,
    serve: bool,
    repository: Path,
    url: str | None,
    protocol: Protocol,
    served: str | None,
    stack: ExitStack,
) -> Live | None:
    if serve:
        from ..serving.server import TritonServer

        file = planning.served_file(artifact, repository)
        server = stack.enter_context(TritonServer(repository))
        address = server.grpc_url if protocol == "grpc" else server.http_url
        return Live(address, protocol, file, repository)
    if url is None:
        return None
    served = served or "model.onnx"
    if served not in artifact.manifest.files:
        raise ArtifactError(
            f"--served {served} is none of {', '.join(artifact.manifest.files)} in "
            f"{artifact.directory}"
        )
    return Live(url or DEFAULT_URLS[protocol], protocol, served)


def _key(
    artifact: Artifact, plan: Plan, choices: Choices, live: Live | None, dataset: Dataset
) -> str:
    """Of everything that results depend on beside the images."""
    files = artifact.manifest.files
    manifest = artifact.manifest
    server: Any = None
    if live is not None:
        server = [live.protocol, live.served]
        server += [live.url] if live.repository is None else _contents(live.repository, manifest)
    return digest_of(
        [
            manifest.checkpoint.model_dump(mode="json"),
            manifest.labels,
            manifest.graph.opset,
            [(hop.name, files[hop.file].sha256 if hop.file else "") for hop in plan.hops],
            dict(plan.steps.answer_options),
            choices.device,
            server,
            dataset.kind,
            versions(manifest),
        ]
    )[:12]


def _contents(repository: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Hashes of the files of a model's newest versions in a repository, settings included."""
    from ..serving.layout import model_names, newest_version

    version = str(newest_version(repository, manifest.name))
    found = []
    for name in model_names(manifest.name):
        folder = repository / name
        files = [folder / "config.pbtxt", *(p for p in (folder / version).rglob("*"))]
        found += [
            (str(path.relative_to(repository)), sha256_of(path))
            for path in sorted(files)
            if path.is_file() and path.suffix in (".pbtxt", ".py", ".txt", ".onnx", ".plan")
        ]
    return found


def _complete(path: Path, dataset: Dataset) -> bool:
    """Whether there is a result for every image already."""
    if not path.is_file():
        return False
    with ResultStore(path) as store:
        return all((s.id, passing.sample_digest(s)) in store for s in dataset.samples)


@dataclass
class _HopAccount:
    step: Agreement | None = None
    total: Agreement | None = None
    results: list[Any] = field(default_factory=list)
    classes: dict[int, float] = field(default_factory=dict)
    milliseconds: float = 0
    #: The largest changes, smallest first: change, then position so that ties are stable.
    worst: list[tuple[float, int, str]] = field(default_factory=list)


@dataclass
class _Account:
    """Sums over the images, and what the metric needs of each."""

    images: int = 0
    unjudged: list[Unjudged] = field(default_factory=list)
    refusals: int = 0
    hops: dict[str, _HopAccount] = field(default_factory=dict)


def _account(
    plan: Plan,
    task: Task,
    metric: Metric | None,
    store: ResultStore,
    keys: list[tuple[str, str]],
) -> _Account:
    account = _Account(hops={hop.name: _HopAccount() for hop in plan.hops})
    for number, line in enumerate(store.read(keys)):
        if "refused" in line:
            account.refusals += 1
            if len(account.unjudged) < _LISTED:
                account.unjudged.append(Unjudged(image=line["id"], **line["refused"]))
            continue
        account.images += 1
        for name, entry in line["hops"].items():
            sums = account.hops[name]
            sums.milliseconds += entry["ms"]
            for class_id, amount in entry["classes"].items():
                sums.classes[int(class_id)] = sums.classes.get(int(class_id), 0) + amount
            if metric is not None:
                sums.results.append(entry["result"])
            if "step" not in entry:
                continue
            step = Agreement.from_json(entry["step"])
            total = Agreement.from_json(entry["total"]) if "total" in entry else step
            sums.step = step if sums.step is None else sums.step + step
            sums.total = total if sums.total is None else sums.total + total
            item = (change_of(task, total), -number, line["id"])
            if len(sums.worst) < SHOWN_IMAGES:
                heapq.heappush(sums.worst, item)
            else:
                heapq.heappushpop(sums.worst, item)
    return account


def change_of(task: Task, total: Agreement) -> float:
    """How much one image's answer changed, for sorting; another best class outweighs scores."""
    figures = total.figures
    if total.counts.get("shapes"):
        return 1000.0
    change = total.counts.get("labels", 0.0)
    if task is Task.CLASSIFICATION:
        gap = max((tensor.max_abs for tensor in total.tensors.values()), default=0.0)
        return change + 100 * (1 - figures["top1"]) + min(gap, 99)
    if task is Task.SEGMENTATION:
        return change + 100 * (1 - figures["pixels"])
    return change + figures["missing"] + figures["extra"] + min(figures.get("score", 0), 0.99)


def _judged(
    plan: Plan,
    artifact: Artifact,
    account: _Account,
    metric: Metric | None,
    max_drop: float | None,
) -> dict[str, HopResult]:
    task = artifact.manifest.task
    files = artifact.manifest.files
    reference = account.hops[plan.hops[0].name]
    judged: dict[str, HopResult] = {}
    for hop in plan.hops:
        sums = account.hops[hop.name]
        result = HopResult(
            name=hop.name,
            source=hop.source,
            title=hop.title,
            precision=hop.precision,
            changes=hop.changes,
            file=hop.file,
            sha256=files[hop.file].sha256 if hop.file else None,
            step=sums.step,
            total=sums.total,
            step_checks=checks(sums.step, hop.step_limits) if sums.step else (),
            total_checks=checks(sums.total, hop.total_limits(task)) if sums.total else (),
            classes=dict(sorted(sums.classes.items())),
            milliseconds=round(sums.milliseconds / max(account.images, 1), 3),
            outcome="reference",
        )
        if metric is not None and account.images:
            scores = metric.score(sums.results)
            first = metric.names[0]
            update: dict[str, Any] = {"scores": scores}
            if hop.source is not None:
                update["drop"] = judged[plan.hops[0].name].scores[first] - scores[first]
                update["step_drop"] = judged[hop.source].scores[first] - scores[first]
                if max_drop is not None:
                    update["gate"] = _gate(metric, reference.results, sums.results, max_drop)
            result = result.model_copy(update=update)
        judged[hop.name] = judge(result)
    return judged


def _gate(
    metric: Metric, reference: list[Any], candidate: list[Any], max_drop: float
) -> GateFigures:
    from .gate import decide

    decision = decide(metric, reference, candidate, max_drop)
    return GateFigures(
        verdict=decision.verdict,
        drop=decision.drop,
        upper_bound=decision.upper_bound,
        limit=max_drop,
        images=decision.images,
        images_needed=decision.images_needed,
    )


def _concluded(judged: dict[str, HopResult], account: _Account) -> tuple[str | None, Outcome, str]:
    """The guilty hop, the outcome and the reason."""
    if account.refusals:
        total = account.images + account.refusals
        first = account.unjudged[0]
        reason = (
            f"{account.refusals} of {total} images could not be judged, as {first.image}, refused "
            f"by {first.hop}: {first.reason}"
        )
        guilty = (guilty_of(judged) if account.images else None) or first.hop
        return guilty, "failed", reason
    guilty = guilty_of(judged)
    if guilty is None:
        return None, "passed", "every hop is within its limits"
    outcomes = {hop.outcome for hop in judged.values()}
    outcome: Outcome = "failed" if "failed" in outcomes else "inconclusive"
    accused = next(hop for hop in judged.values() if hop.outcome == outcome)
    reason = f"{accused.name}: {accused.reason}"
    if guilty != accused.name:
        reason += f"; it came in with {guilty}"
    return guilty, outcome, reason


def _changed(
    shown: str, judged: dict[str, HopResult], account: _Account, dataset: Dataset
) -> tuple[ImageChange, ...]:
    if judged[shown].source is None:
        return ()
    paths = {sample.id: sample.path for sample in dataset.samples}
    worst = sorted(account.hops[shown].worst, reverse=True)
    return tuple(
        ImageChange(image=image, path=str(paths[image]), change=round(change, 6))
        for change, _, image in worst
        if change > 0
    )


def _layers(
    name: str | None, plan: Plan, artifact: Artifact, dataset: Dataset, threads: int | None
) -> LayerComparison | None:
    if name is None:
        return None
    from .layers import compare_layers

    hop = next((hop for hop in plan.hops if hop.name == name), None)
    comparable = [h.name for h in plan.hops if h.changes]
    if hop is None or hop.name not in comparable:
        raise BadInput(
            f"--layers {name} is none of {', '.join(comparable) or 'the hops here'}: inner tensors "
            "are compared between model.onnx and an ONNX file made from it"
        )
    with stage(f"{name}: comparing inner tensors"):
        return compare_layers(artifact, hop, plan.steps, dataset.samples, threads)


def _notes(
    manifest: Manifest, dataset: Dataset, against: Against, metric: Metric | None
) -> tuple[str, ...]:
    notes = []
    if not manifest.trained:
        notes.append(
            "The weights are untrained: agreement between the hops is what these figures show, "
            "accuracy they cannot."
        )
    if metric is None:
        notes.append("No labels: the verdict rests on agreement with the reference.")
    if manifest.task is Task.DETECTION and metric is None:
        notes.append(
            "Detection rests on matched detections; this project has no detector of its own that "
            "learnt something to measure the drop of its average precision on."
        )
    if against == "onnx":
        notes.append("The reference is model.onnx, not the PyTorch model: no verdict was recorded.")
    notes += dataset.notes
    if len(dataset) < dataset.available:
        notes.append(f"{len(dataset):,} of {dataset.available:,} images, evenly spread.")
    return tuple(notes)


def _checkpoint(manifest: Manifest) -> str:
    record = manifest.checkpoint
    if record.source == "untrained":
        return "untrained weights"
    return f"{record.file} ({record.source}), SHA-256 {record.sha256}"


def _reported(
    validation: Validation,
    artifact: Artifact,
    plan: Plan,
    dataset: Dataset,
    key: str,
    against: Against,
) -> Validation:
    """Write the reports, and the verdicts into the manifest."""
    from .report import drawn_changes, html_report

    names = {"json": f"validation-{key}.json", "html": f"validation-{key}.html"}
    validation = validation.model_copy(update={"reports": names})
    samples = {sample.id: sample for sample in dataset.samples}
    with stage(f"{validation.model}: drawing the images that changed most"):
        pictures = drawn_changes(validation, plan, samples)
    with (
        staged(artifact.directory / names["json"]) as json_file,
        staged(artifact.directory / names["html"]) as html_file,
    ):
        json_file.write_text(validation.model_dump_json(indent=2) + "\n", encoding="utf-8")
        html_file.write_text(html_report(validation, pictures), encoding="utf-8")
    if against == "fp32":
        update_manifest(artifact.directory, lambda found: with_verdicts(found, validation))
    return validation


def with_verdicts(manifest: Manifest, validation: Validation) -> Manifest:
    """The manifest with a verdict for each file that was judged and is still the same."""
    verdicts = dict(manifest.verdicts)
    for hop in validation.hops:
        if hop.file is None or hop.outcome == "reference" or hop.total is None:
            continue
        record = manifest.files.get(hop.file)
        if record is None or record.sha256 != hop.sha256:
            continue
        verdicts[hop.file] = Verdict(
            verdict="failed" if validation.unjudged else hop.outcome,
            file_sha256=record.sha256,
            created=validation.created,
            command=validation.command,
            dataset=validation.dataset,
            images=validation.images,
            metric=validation.metric or "agreement",
            figures=_verdict_figures(hop),
            report=validation.reports["json"],
        )
    return manifest.model_copy(update={"verdicts": verdicts})


def _verdict_figures(hop: HopResult) -> dict[str, float]:
    if hop.gate is not None:
        gate = hop.gate
        return {"drop": gate.drop, "upper_bound": gate.upper_bound, "limit": gate.limit}
    return {check.name: check.figure for check in hop.total_checks}


def _commands(manifest: Manifest, command: str) -> tuple[str, ...]:
    """What makes these figures again."""
    conversions = [record.command for record in manifest.conversions.values()]
    return (manifest.command, *conversions, command)


def _command(options: dict[str, Any]) -> str:
    """The command line of a call of `validate`, from its arguments."""
    words = ["dfvt-deploy", "validate", options["artifact"].manifest.name]
    exports = options["artifact"].directory.parent.name
    if exports not in ("", "exports"):
        words += ["--exports", exports]
    for name in ("checkpoint", "dataset", "data", "images", "limit", "max_drop", "url", "served"):
        value = options[name]
        if value is not None:
            text = Path(value).name if name in ("checkpoint", "data", "images") else f"{value}"
            words += [f"--{name.replace('_', '-')}", text]
    for precision in options["precisions"] or ():
        words += ["--precision", str(Precision(precision))]
    for engine in options["engines"] or ():
        words += ["--engine", engine]
    if options["serve"]:
        words += ["--serve", "--repository", Path(options["repository"]).name]
    if options["protocol"] != "grpc":
        words += ["--protocol", options["protocol"]]
    for name, default in (("against", "fp32"), ("device", "cpu")):
        if options[name] != default:
            words += [f"--{name}", options[name]]
    if options["layers"]:
        words += ["--layers", options["layers"]]
    return shlex.join(words)
