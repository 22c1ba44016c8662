"""An exported model on disk: reading its manifest, verifying its files, and changing the record."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ArtifactError, BadInput, GateFailed
from .files import locked, replaced_folder, sha256_of, write_text
from .manifest import MANIFEST, FileRecord, Manifest, Verdict
from .names import ONNX_FILES, judged_form, onnx_file
from .text_files import near
from .types import Int8Target, Precision, Task, Variant, model_name


@dataclass(frozen=True)
class Artifact:
    """An exported model whose files agreed with its manifest when the folder was opened."""

    directory: Path
    manifest: Manifest

    def command(self, name: str, *words: object) -> str:
        """The shell command `dfvt-deploy NAME` for this model, with more words and its folder."""
        return model_command(self.directory, name, *words)

    def onnx_path(
        self, precision: Precision = Precision.FP32, target: Int8Target = Int8Target.CPU
    ) -> Path:
        """The ONNX file of a precision; of INT8, the file that `target` runs. Raises ArtifactError
        where it was not made, or model.onnx changed after it was made."""
        name = onnx_file(precision, target)
        record = self.manifest.files.get(name)
        if record is None:
            other = () if name == ONNX_FILES[precision] else ("--target", target)
            command = self.command("convert", "--precision", precision, *other)
            raise ArtifactError(f"{self.directory} has no {name}; make it with: {command}")
        source = self.manifest.files[ONNX_FILES[Precision.FP32]]
        if record.source_sha256 not in (None, source.sha256):
            raise ArtifactError(
                f"{self.directory / name} was made from another model.onnx; "
                f"make it again with: {record.command}"
            )
        return self.directory / name

    def verdict(
        self, file: str, precision: Precision | None = None, fast_decode: bool = False
    ) -> Verdict | None:
        """The verdict on a file's present content, or None without one; `precision` and
        `fast_decode` as in `judged_form`."""
        verdict = self.manifest.verdicts.get(judged_form(file, precision, fast_decode))
        record = self.manifest.files.get(file)
        if verdict is None or record is None or verdict.file_sha256 != record.sha256:
            return None
        return verdict

    def require_validated(
        self, file: str, precision: Precision | None = None, fast_decode: bool = False
    ) -> Verdict:
        """The verdict on a file's present content, as `verdict` gives it. Raises GateFailed where
        the file was never validated, changed since, or did not pass."""
        verdict = self.verdict(file, precision, fast_decode)
        if verdict is not None and verdict.verdict == "passed":
            return verdict
        asked: list[object] = ["--fast-decode"] if fast_decode else []
        path = f"{self.directory / file}{' with --fast-decode' if fast_decode else ''}"
        if precision is Precision.BF16:
            asked, path = ["--precision", precision, *asked], f"{path} in bf16"
        earlier = self.manifest.verdicts.get(judged_form(file, precision, fast_decode))
        remedy = earlier.command if earlier else self.command("validate", *asked)
        if verdict is not None:
            raise GateFailed(
                f"{path} did not pass: {verdict.verdict}, on {verdict.images:,} images of "
                f"{verdict.dataset} ({verdict.report}); mend it and run: {remedy}"
            )
        found = "was changed since it was validated" if earlier else "was never validated"
        raise GateFailed(f"{path} {found}; run: {remedy}")

    def reports(
        self, file: str, precision: Precision | None = None, fast_decode: bool = False
    ) -> list[Path]:
        """The JSON and HTML reports of the verdict that `verdict` gives, as far as they exist.
        Raises ArtifactError where one is a symbolic link."""
        verdict = self.verdict(file, precision, fast_decode)
        if verdict is None:
            return []
        report = self.directory / verdict.report
        found = [path for path in (report, report.with_suffix(".html")) if path.exists()]
        for path in found:
            refuse_link(path)
        return found


def model_command(directory: Path, name: str, *words: object) -> str:
    """The shell command `dfvt-deploy NAME` for the model in a folder, with more words."""
    folder = () if directory.parent == Path("exports") else ("--exports", directory.parent)
    return shlex.join(map(str, ("dfvt-deploy", name, directory.name, *words, *folder)))


def remake_remedy(file: Path) -> str:
    """What to do about a file of an exported model that cannot be used: its recorded command."""
    try:
        command = read_manifest(file.parent / MANIFEST).files[file.name].command
    except (ArtifactError, KeyError):
        return f"make {file.name} again"
    return f"make it again with: {command}"


def file_record(path: Path, precision: Precision, command: str, **more: Any) -> FileRecord:
    """The record of a file as it is now; `more` are the other fields of `FileRecord`."""
    size, sha256 = path.stat().st_size, sha256_of(path)
    return FileRecord(size=size, sha256=sha256, precision=precision, command=command, **more)


def open_artifact(
    directory: str | Path, precision: Precision | None = None, target: Int8Target = Int8Target.CPU
) -> Artifact:
    """Read a folder of `exports/` and verify its files against its manifest: all of them, or only
    model.onnx and the ONNX file of a precision; of INT8, the file that `target` runs. Raises
    ArtifactError where the folder has no readable manifest or another model's, or a file is
    missing, a symbolic link, or was changed."""
    directory = Path(directory)
    only = None if precision is None else onnx_file(precision, target)
    parent = directory.resolve().parent
    with locked(parent, shared=True) if parent.is_dir() else nullcontext():
        path = directory / MANIFEST
        manifest = read_manifest(path)
        if manifest.name != (name := directory.absolute().name):
            raise ArtifactError(
                f"{path} is the record of {manifest.name}, but its folder is called {name}; give "
                f"the folder the name {manifest.name} in a folder of its own, or export with "
                f"--name {name}"
            )
        for name, record in manifest.files.items():
            if only is None or name in (only, ONNX_FILES[Precision.FP32]):
                _verify(directory / name, record)
    return Artifact(directory, manifest)


def _verify(file: Path, record: FileRecord) -> None:
    refuse_link(file)
    if not file.is_file():
        raise ArtifactError(
            f"{file} is missing, {file.parent / MANIFEST} lists it; make it again with: "
            f"{record.command}"
        )
    if file.stat().st_size != record.size or sha256_of(file) != record.sha256:
        raise ArtifactError(
            f"{file} was changed since it was written: its SHA-256 is not the one in "
            f"{MANIFEST}; make it again with: {record.command}, or restore the file"
        )


def refuse_link(path: Path) -> None:
    """Raise ArtifactError if a file of an exported model is a symbolic link."""
    if path.is_symlink():
        raise ArtifactError(
            f"{path} is a symbolic link; an exported model holds its files itself: replace the "
            "link with a copy of the file"
        )


def read_manifest(path: Path) -> Manifest:
    """Parse and validate a manifest; `open_artifact` also verifies the files beside it. Raises
    ArtifactError where it is missing, damaged, or of another schema version."""
    refuse_link(path)
    if path.exists():
        return Manifest.read(path, "export the model again", "schema_version")
    exports, name = path.parent.parent, path.parent.name
    if names := [found.name for found in _model_folders(exports)]:
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ArtifactError(f"{exports} holds no model {name}; it holds {shown}{near(name, names)}")
    raise ArtifactError(
        f"{exports} holds no exported model called {name}; make one with: "
        f"{_export_command(exports, name)}"
    )


def write_artifact(directory: Path, manifest: Manifest, files: Mapping[str, Path]) -> Artifact:
    """Put a newly exported model in a folder, all of it in one step; `files`, by their final name,
    are moved. Files that were derived from an earlier model.onnx stay listed, as stale ones."""

    def with_derived() -> Manifest:
        with suppress(ArtifactError):
            derived = {
                name: record
                for name, record in read_manifest(directory / MANIFEST).files.items()
                if record.source_sha256 is not None and (directory / name).is_file()
            }
            return manifest.model_copy(update={"files": {**derived, **manifest.files}})
        return manifest

    directory.parent.mkdir(parents=True, exist_ok=True)
    return Artifact(directory, _replace(directory, with_derived, files))


def update_manifest(
    directory: Path, change: Callable[[Manifest], Manifest], files: Mapping[str, Path] | None = None
) -> Manifest:
    """Change the manifest of a folder and add files to the folder, all of it in one step.

    change: makes the new manifest from the one that is there. Do not open the folder in it: its
        lock is held.
    files: new files by their final name; they are moved.
    Raises ArtifactError as `read_manifest` does.
    """
    return _replace(directory, lambda: change(read_manifest(directory / MANIFEST)), files or {})


def _replace(directory: Path, make: Callable[[], Manifest], files: Mapping[str, Path]) -> Manifest:
    """Call `make` while no other process changes the folder, and put its manifest there."""
    directory = directory.resolve()
    with locked(directory.parent), replaced_folder(directory) as folder:
        manifest = make()
        for name, path in files.items():
            path.replace(folder / name)
        write_text(folder / MANIFEST, manifest.as_text())
    return manifest


def exported_models(exports: str | Path, names: Sequence[str] = ()) -> list[Path]:
    """Folders of `exports` that hold a manifest, by name, or those called `names`. Raises BadInput
    where a name is a path, ArtifactError where the folder holds none."""
    for name in names:
        if name != Path(name).name:
            parent = Path(name).parent
            raise BadInput(f"{name} is a path; give {Path(name).name} and --exports {parent}")
    if names:
        return [Path(exports) / name for name in names]
    found = _model_folders(Path(exports))
    if not found:
        command = _export_command(Path(exports))
        raise ArtifactError(f"{exports} holds no exported model; make one with: {command}")
    return found


def _export_command(exports: Path, name: str = "") -> str:
    """The command that exports the model of a name, or one of any name, into a folder."""
    kinds = {model_name(task, variant): (task, variant) for task in Task for variant in Variant}
    task, variant = kinds.get(name, (Task.CLASSIFICATION, Variant.S))
    words = ["dfvt-deploy", "export", "--variant", variant, "--task", task]
    return shlex.join([*words, "--output", str(exports)])


def _model_folders(exports: Path) -> list[Path]:
    """Folders with a manifest, by name; hidden folders are those of unfinished exports."""
    return sorted(path.parent for path in exports.glob(f"[!.]*/{MANIFEST}"))
