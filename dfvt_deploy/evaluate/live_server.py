"""The Triton server whose answers are compared: a running one, or one started for the purpose."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..artifact import Artifact
from ..errors import ArtifactError, BadInput
from ..names import ONNX_FILES
from ..runners.triton import TritonRunner
from ..types import Precision, TritonProtocol
from .options import ValidateOptions


@dataclass(frozen=True)
class Served:
    """A file of an exported model, the precision that a server computes it in, whether the server
    decodes images at reduced scale and, of one that runs, its `host:port` and the options of
    postprocessing that it answers with."""

    file: str
    precision: Precision
    fast_decode: bool
    url: str = ""
    answer_options: Mapping[str, Any] = field(default_factory=dict)


def served_file(artifact: Artifact, options: ValidateOptions) -> Served | None:
    """What the server serves; None where no server is asked for. Raises ArtifactError where the
    repository does not hold this export, or --served names no file of it."""
    if options.serve:
        return _file_in_repository(artifact, options.repository)
    if options.url is None:
        return None
    files, served = artifact.manifest.files, options.served or ONNX_FILES[Precision.FP32]
    if served == Precision.BF16:
        return Served(ONNX_FILES[Precision.FP32], Precision.BF16, options.fast_decode)
    if served not in files:
        raise ArtifactError(
            f"--served {served} is none of {', '.join(files)} in {artifact.directory}"
        )
    return Served(served, files[served].precision, options.fast_decode)


def _file_in_repository(artifact: Artifact, repository: Path) -> Served:
    from ..serving.layout import live_version, read_version

    name = artifact.manifest.name
    version = live_version(repository, name)
    remedy = artifact.command("populate", "--repository", repository)
    if not version:
        raise ArtifactError(f"{repository} does not hold {name}; add it with: {remedy}")
    record = read_version(repository, name, version)
    by_hash = {each.sha256: file for file, each in artifact.manifest.files.items()}
    for digest in record.files.values():
        if digest in by_hash:
            return Served(by_hash[digest], record.precision, record.fast_decode)
    folder = repository / f"{name}_network" / str(version)
    raise ArtifactError(
        f"{folder} serves none of the files of {artifact.directory}; populate again: {remedy}"
    )


def live_server(
    artifact: Artifact, options: ValidateOptions, served: Served, stack: ExitStack
) -> Served:
    """The server at --url, or one started on --repository that stops when `stack` closes. Raises
    BadInput where the server serves another model under this name."""
    url = options.url
    if url is None:
        from ..serving.server import serve

        server = stack.enter_context(serve(options.repository))
        url = server.grpc_url if options.protocol == "grpc" else server.http_url
    return replace(
        served, url=url, answer_options=answer_options_at(artifact, url, options.protocol)
    )


def answer_options_at(artifact: Artifact, url: str, protocol: TritonProtocol) -> dict[str, Any]:
    """A server's options of postprocessing; BadInput where it serves another model by this name."""
    from ..serving.tasks import served_task

    manifest = artifact.manifest
    task = served_task(manifest.task)
    options = task.answer_options(manifest, None, 2**31)
    with TritonRunner(manifest.name, url, protocol) as runner:
        shapes = runner.output_shapes()
    if missing := [answer.name for answer in task.answers if answer.name not in shapes]:
        raise BadInput(
            f"{manifest.name} at {url} answers {', '.join(shapes)}, without {missing[0]}; it is "
            "another model"
        )
    # A size that is an answer option, such as k, is read off the shape of an answer.
    for answer in task.answers:
        sizes = zip(answer.shape, shapes[answer.name], strict=True)
        options |= {dim: size for dim, size in sizes if dim in options}
    return options
