"""The history of a model: which version became live, when, by whom, why, and on which verdicts.

An entry is written just before the version becomes live. Where a process was killed between the
two, or the link was moved by hand, the version that is live counts: see `been_live`.
"""

import getpass
import hashlib
import os
import socket
from pathlib import Path
from typing import Any, Literal

from ..artifact import read_manifest
from ..files import write_text
from ..manifest import MANIFEST, Count, Record, Sha256, Verdict
from ..names import STEPS, judged_form
from ..provenance import now
from . import layout

HISTORY = "history.json"

#: Files of a network that `validate` judges.
_JUDGED = (".onnx", ".plan", ".xml")


class Change(Record):
    """One change of the live version.

    action: the command; `found` is a change by other means, noticed by the next command.
    previous: the version that was live before; 0 for none.
    verdicts: verdict on each file of the network; None where a file has none.
    unvalidated: whether the version became live without a passing verdict on each file.
    sha256: hash of the version's record and configs, see `version_hash`.
    """

    action: Literal["populate", "promote", "rollback", "found"]
    version: Count
    previous: Count
    at: str
    who: str
    reason: str = ""
    verdicts: dict[str, Verdict | None]
    unvalidated: bool = False
    sha256: Sha256


class History(Record):
    """All changes of a model, the oldest first."""

    changes: tuple[Change, ...] = ()


def read_history(repository: Path, name: str) -> tuple[Change, ...]:
    """The changes of a model, if there is a history; ArtifactError where it is damaged."""
    path = repository / name / HISTORY
    if not path.exists():
        return ()
    return History.read(path, "move the file away to begin a new one").changes


def been_live(changes: tuple[Change, ...], live: int) -> list[int]:
    """The versions that rollback walks back through, the live one last. A rollback takes the last
    away, other changes add their version; a last change that is not `live` did not happen."""
    stack: list[int] = []
    for action, version in [*((c.action, c.version) for c in changes), ("found", live)]:
        if action in ("rollback", "found") and len(stack) > 1 and stack[-2] == version:
            stack.pop()
        elif version and version not in stack[-1:]:
            stack.append(version)
    return stack


def previous_version(repository: Path, name: str) -> int:
    """The version that `rollback` returns to; 0 where there is none."""
    there = set(layout.versions(repository, name))
    live = layout.live_version(repository, name)
    earlier = been_live(read_history(repository, name), live)[:-1]
    return next((v for v in reversed(earlier) if v in there and v != live), 0)


def version_hash(repository: Path, name: str, version: int) -> str:
    """SHA-256 of the version's record, which has the hashes of its files, and of its configs."""
    folder = repository / name / str(version)
    digest = hashlib.sha256()
    for file in (layout.VERSION_RECORD, layout.CONFIG, *(f"{step}.pbtxt" for step in STEPS)):
        content = (folder / file).read_bytes()
        digest.update(f"{file} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def verdicts_on(
    repository: Path, name: str, version: int, exports: Path | None = None
) -> dict[str, Verdict | None]:
    """The latest verdict on each file of a version's network, by its `judged_form`. Verdicts are
    found by the file's hash, in the manifest that was copied into the version and in that of
    `exports/<name>`, so that a version can be validated after it was populated."""
    network = layout.model_names(name)[1]
    folder = repository / network / str(version)
    manifests = [folder / MANIFEST, *([exports / name / MANIFEST] if exports else [])]
    record = layout.read_version(repository, name, version)
    form = record.precision, record.fast_decode
    read = [read_manifest(path) for path in manifests if path.is_file()]
    judged = (m.verdicts.get(judged_form(file, *form)) for m in read for file in m.files)
    known = sorted(filter(None, judged), key=lambda verdict: verdict.created)
    latest = {verdict.file_sha256: verdict for verdict in known}
    return {
        judged_form(Path(path).name, *form): latest.get(sha256)
        for path, sha256 in record.files.items()
        if path.startswith(f"{network}/") and path.endswith(_JUDGED)
    }


def passed(verdicts: dict[str, Verdict | None]) -> bool:
    """Whether every file has a passing verdict."""
    return bool(verdicts) and all(v and v.verdict == "passed" for v in verdicts.values())


def go_live(
    repository: Path,
    name: str,
    version: int,
    action: Literal["populate", "promote", "rollback"],
    *,
    reason: str = "",
    verdicts: dict[str, Verdict | None],
) -> Change:
    """Record a change and make the version live; the caller holds the repository's lock. The last
    change is returned where the version is live already, in its present form."""
    changes, live = read_history(repository, name), layout.live_version(repository, name)
    last = changes[-1] if live and changes else None
    if last and last.version != live:
        found = {"action": "found", "previous": last.version, "verdicts": {}}
        changes += (_change(repository, name, live, **found),)
    more = {"reason": reason, "verdicts": verdicts, "unvalidated": not passed(verdicts)}
    change = _change(repository, name, version, action=action, previous=live, **more)
    form = live, change.version, change.sha256, change.verdicts
    if last and form == (version, last.version, last.sha256, last.verdicts):
        return last
    write_text(repository / name / HISTORY, History(changes=(*changes, change)).as_text())
    layout.make_live(repository, name, version)
    return change


def _change(repository: Path, name: str, version: int, **fields: Any) -> Change:
    sha256 = version_hash(repository, name, version)
    return Change(version=version, at=now(), who=_who(), sha256=sha256, **fields)


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
