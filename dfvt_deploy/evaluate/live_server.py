"""The Triton server whose answers are compared: a running one, or one started for the purpose."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Artifact, read_manifest
from ..errors import ArtifactError, BadInput
from ..files import sha256_of
from ..manifest import MANIFEST
from ..names import ONNX_FILES
from ..runners.triton import TritonRunner
from ..types import Precision, TritonProtocol
from .options import ValidateOptions


@dataclass(frozen=True)
class Served:
    """A file of an exported model, the precision that a server computes it in, and whether the
    server decodes images at reduced scale."""

    file: str
    precision: Precision
    fast_decode: bool


@dataclass(frozen=True)
class LiveServer(Served):
    """A running Triton server that serves the model.

    repository: the model repository that the server was started on; None for a server at --url.
    answer_options: the options of postprocessing that the server answers with.
    """

    url: str
    protocol: TritonProtocol
    repository: Path | None
    answer_options: Mapping[str, Any]


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
    folder = repository / f"{name}_network" / str(version)
    populated = {record.sha256 for record in read_manifest(folder / MANIFEST).files.values()}
    by_hash = {record.sha256: file for file, record in artifact.manifest.files.items()}
    for path in sorted(folder.iterdir()):
        digest = sha256_of(path)
        if digest in populated and digest in by_hash:
            record = read_version(repository, name, version)
            return Served(by_hash[digest], record.precision, record.fast_decode)
    raise ArtifactError(
        f"{folder} serves none of the files of {artifact.directory}; populate again: {remedy}"
    )


def live_server(
    artifact: Artifact, options: ValidateOptions, served: Served, stack: ExitStack
) -> LiveServer:
    """The server at --url, or one started on --repository that stops when `stack` closes. Raises
    BadInput where the server serves another model under this name."""
    url, repository = options.url, None
    if url is None:
        from ..serving.server import serve

        repository = options.repository
        server = stack.enter_context(serve(repository))
        url = server.grpc_url if options.protocol == "grpc" else server.http_url
    answer_options = answer_options_at(artifact, url, options.protocol)
    more: dict[str, Any] = {"repository": repository, "answer_options": answer_options}
    return LiveServer(**vars(served), url=url, protocol=options.protocol, **more)


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
