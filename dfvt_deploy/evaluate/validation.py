"""`validate`: what is lost between PyTorch and a served answer, where, and whether it may be."""

import time
from contextlib import ExitStack

from ..artifact import open_artifact
from ..data import SAMPLES
from ..errors import optional
from ..files import check_output_folder, locked
from ..options import from_fields
from ..progress import spinner
from ..provenance import now
from . import provenance, run
from .build_stages import Stages, check_files
from .datasets import open_dataset
from .datasets.sample import Dataset
from .judge import chance_level, conclude, judge
from .live_server import live_server, served_file
from .metrics import metric_of
from .options import ValidateOptions
from .report import drawn_changes, record_validation, report_template
from .results import Validation
from .run import ResultStore, remove_store
from .summary import Summary, class_changes, stage_results, summarise

#: The folder of stored results, within the folder of the model.
RESULTS = "validation"

#: Refused images that a result lists.
_LISTED = 20


@from_fields(ValidateOptions, "exports/model")
def validate(options: ValidateOptions) -> Validation:
    """Pass the same images through every form of a model, and compare each form with the one before
    it and with the float32 PyTorch model.

    The reports (HTML and JSON) and the verdict about each file are written into the folder of the
    model. Results of single images are stored as they come, so an interrupted run goes on where it
    stopped. A gate that fails is a result and not an error: see `Validation.outcome`.

    Raises BadInput for options, files or images that cannot be used, StageFailed where a stage
    cannot run, ServerFailed where the server did not start, died, or does not answer.
    """
    started = time.perf_counter()
    artifact = open_artifact(options.directory)
    served = served_file(artifact, options)
    check_files(artifact, options, served)
    report_template()  # A package that is missing is an error before the work, not after it.
    if options.dataset == "coco":
        optional("pycocotools.cocoeval")
    check_output_folder(artifact.directory / RESULTS, "--exports")
    with ExitStack() as stack:
        reference = live = None
        if options.against == "fp32":
            from ..models.build import model_from_manifest

            with spinner(f"{options.model}: building the PyTorch model"):
                reference = model_from_manifest(artifact.manifest, options.checkpoint)
        if served and options.url:
            live = live_server(artifact, options, served, stack)
        with spinner("checking the images"):
            data = options.data or options.images or SAMPLES
            kind = options.dataset or "images"
            dataset = open_dataset(kind, data, artifact.manifest, options.limit)
        if served and options.serve:  # started last, as it takes longest
            live = live_server(artifact, options, served, stack)
        stages = Stages(artifact, options, live, stack)
        stages.build(reference)
        key = provenance.results_key(stages)
        summary = _pass_images(stages, dataset, key)
        found = _found(stages, dataset, summary, key)
        found = found.model_copy(update={"seconds": round(time.perf_counter() - started, 1)})
        with spinner(f"{found.model}: drawing the images that changed most"):
            pictures = drawn_changes(found, stages, dataset)
        record_validation(found, pictures, artifact.directory, verdicts=options.against == "fp32")
        return found


def _pass_images(stages: Stages, dataset: Dataset, key: str) -> Summary:
    """Pass the images that have no stored result through the stages, and add all results up."""
    options = stages.options
    metric = metric_of(stages.manifest.task) if options.dataset else None
    folder = stages.artifact.directory / RESULTS
    folder.mkdir(exist_ok=True)
    path = folder / f"{key}.sqlite"
    with locked(folder):
        fresh = options.fresh
        if options.url and path.is_file():
            # The server at --url may serve another model since a run that was complete, and no hash
            # would tell.
            with ResultStore(path) as store:
                fresh = fresh or all(run.sample_digest(s) in store for s in dataset.samples)
        if fresh:
            remove_store(path)
        with ResultStore(path) as store:
            digests = run.run_stages(stages, dataset.samples, metric, store)
            return summarise(stages.made, metric, store, digests)


def _found(stages: Stages, dataset: Dataset, summary: Summary, key: str) -> Validation:
    """Judge the stages and put everything together that the report shows."""
    manifest, options, reference = stages.manifest, stages.options, stages.made[0]
    sums, level = summary.stages[reference.name], None
    metric = summary.metric.names[0] if summary.metric else None
    with spinner(f"{manifest.name}: judging {summary.images:,} images"):
        if summary.metric and summary.images:
            level = chance_level(summary.metric, sums.results, manifest.num_classes)
        results = stage_results(stages, summary, level)
        judged = tuple(judge(each, level, finds_nothing=not sums.classes) for each in results)
    concluded = conclude(judged, summary.images, summary.refused, metric, level)
    layers = None
    if options.layers:
        from .inner_tensors import compare_inner_tensors

        with spinner(f"{options.layers}: comparing inner tensors"):
            layers = compare_inner_tensors(stages, options.layers, dataset.samples)
    names = [stage.name for stage in stages.made]
    shown = concluded.culprit if concluded.culprit in names[1:] else names[-1]
    command = options.command_line()
    files = [stage.file for stage in judged if stage.file]
    return Validation(
        model=manifest.name,
        task=manifest.task,
        created=now(),
        command=command,
        commands=(*dict.fromkeys(manifest.files[file].command for file in files), command),
        **concluded._asdict(),
        reference=reference.title,
        dataset=dataset.name if metric is None else f"{dataset.name} ({options.dataset})",
        images=summary.images,
        metric=metric,
        max_drop=options.max_drop,
        reference_level=level,
        stages=judged,
        not_run=tuple(stages.not_run),
        unjudged=tuple(summary.refused[:_LISTED]),
        refused=len(summary.refused),
        shown=shown,
        classes=class_changes(summary, manifest.labels, reference.name, shown),
        layers=layers,
        notes=provenance.notes(manifest, dataset, options),
        checkpoint=provenance.checkpoint_text(manifest),
        versions=provenance.versions(manifest),
        hardware=provenance.hardware(options.device),
        seconds=0,
        reports={kind: f"validation-{key}.{kind}" for kind in ("json", "html")},
    )
