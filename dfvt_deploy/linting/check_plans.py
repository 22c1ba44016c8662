"""TensorRT plans: their first bytes, the target's TensorRT, and the shapes they take."""

from pathlib import Path

from ..engines.engine import read_plan_header
from ..engines.machine import TritonRelease
from ..engines.record import read_record, record_path
from ..errors import ArtifactError
from ..types import Flavor
from .reading import ModelFolder, dims_text, is_filled
from .rules import Finding, Findings


def check_plans(model: ModelFolder, release: TritonRelease | None) -> Findings:
    """Every plan that a model serves. The TensorRT that built it is compared only with a target."""
    if model.backend != "tensorrt":
        return
    for file in model.model_files():
        if not is_filled(file):
            continue
        try:
            header = read_plan_header(file)
        except ArtifactError as error:
            yield Finding("plan-file", file, str(error), "copy or build the plan again")
            continue
        if header.flavor is Flavor.RTX:
            problem = f"TensorRT-RTX {header.version} built it"
            fix = "serve it with the embedded server, or build a plan with TensorRT"
            yield Finding("plan-flavor", file, problem, fix)
        elif release is not None and not release.has_tensorrt(header.version):
            target = f"tritonserver:{release.name}"
            problem = f"TensorRT {header.version} built it, {target} has {release.tensorrt}"
            fix = f"build it again with --target {target}"
            yield Finding("plan-version", file, problem, fix)
        if record_path(file).is_file():
            yield from _profile(model, file)
    config = model.config
    if config.cc_model_filenames and not config.default_model_filename:
        known = ", ".join(sorted(config.cc_model_filenames))
        problem = f"there are plans for compute capability {known} and none for other GPUs"
        fix = "serve on such GPUs only, or name a default_model_filename that runs anywhere"
        yield model.at("compute-capability", "cc_model_filenames", problem, fix)


def _profile(model: ModelFolder, file: Path) -> Findings:
    try:
        record = read_record(file)
    except ArtifactError as error:
        yield Finding("plan-file", record_path(file), str(error), "copy the record again")
        return
    batch = model.config.max_batch_size
    if batch > record.max_batch:
        problem = f"max_batch_size is {batch}, {file.name} takes at most {record.max_batch}"
        fix = f"write {record.max_batch}, or build with --max-batch {batch}"
        yield model.at("plan-profile", "max_batch_size", problem, fix)
    for number, tensor in enumerate(model.config.input):
        if tensor.name not in record.profile:
            continue
        shapes, dims = record.profile[tensor.name], list(tensor.dims)
        low, high = (bound[1:] if model.batched else bound for bound in (shapes.min, shapes.max))
        bounds = zip(dims, low, high, strict=False)
        if len(dims) != len(low) or any(d != -1 and not a <= d <= b for d, a, b in bounds):
            outside = f"{dims_text(low)} .. {dims_text(high)} of {file.name}"
            problem = f"dims {dims_text(dims)} are outside {outside}"
            fix = "write dims that the plan takes"
            yield model.at("plan-profile", f"input[{number}].dims", problem, fix)
