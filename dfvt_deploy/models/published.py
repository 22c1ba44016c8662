"""Downloads the authors' checkpoints: each once, resumed after an interruption, pinned by hash."""

import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from ..errors import BadInput, StageFailed
from ..files import cache_directory, sha256_of, write_text
from ..json_files import JsonError, read_json
from ..progress import download_bar
from ..types import Task, Variant
from .task_model import model_of

RELEASE_URL = "https://github.com/ginobilinie/DFvT/releases/download/Classification"

_CHUNK = 2**18


def published_checkpoint(task: Task, variant: Variant, *, timeout: float = 60) -> Path:
    """Return the path of the authors' checkpoint, and download it if the cache does not have it,
    from `$DFVT_DEPLOY_RELEASE_URL` or the authors' release. The server may be silent for `timeout`
    seconds. The first download's SHA-256 is recorded beside the file (`<file>.json`). From then on
    a file with another hash is refused, whether it lies in the cache or is downloaded again. Raises
    BadInput where the authors published no checkpoint for this task, StageFailed where the server
    cannot be reached, or the file is incomplete or has another hash than the recorded one."""
    if (name := model_of(task).release_files.get(variant)) is None:
        published = ", ".join(one for one in Task if model_of(one).release_files)
        raise BadInput(
            f"the authors published no {task} checkpoint, only {published}; "
            "give --checkpoint a file"
        )
    url = f"{os.environ.get('DFVT_DEPLOY_RELEASE_URL') or RELEASE_URL}/{name}"
    file = cache_directory() / name
    part, record = file.with_name(f"{name}.part"), file.with_name(f"{name}.json")
    recorded, fresh = _recorded_hash(record), not file.is_file()
    if fresh:
        _download(url, part, timeout)
    found = part if fresh else file
    sha256 = sha256_of(found)
    if recorded is None:
        facts = {"url": url, "size": found.stat().st_size, "sha256": sha256}
        write_text(record, json.dumps(facts, indent=2) + "\n")
    elif sha256 != recorded and fresh:
        part.unlink()
        raise StageFailed(
            f"{url} now has SHA-256 {sha256}, its first download had {recorded}; refused. "
            f"If the authors replaced it and you trust the new file, delete {record}"
        )
    elif sha256 != recorded:
        raise StageFailed(
            f"{file} has SHA-256 {sha256}, recorded at its first download: {recorded}; "
            "it was changed since. Delete it to download it again"
        )
    return part.replace(file) if fresh else file


def _recorded_hash(record: Path) -> str | None:
    if not record.is_file():
        return None
    try:
        return str(read_json(record)["sha256"])
    except (JsonError, KeyError, TypeError) as error:
        raise StageFailed(
            f"{record} is damaged ({error}); delete it to accept the file beside it as it is"
        ) from error


def _download(url: str, part: Path, timeout: float) -> None:
    """Download `url` to `part` with a progress bar, and go on behind what that holds. Raises
    StageFailed where the server cannot be reached, or sent less or more than it said."""
    validator_file = part.with_name(part.name + ".validator")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, validator_file, timeout)
    except urllib.error.HTTPError as error:
        raise StageFailed(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise StageFailed(
            f"{url} could not be downloaded: {getattr(error, 'reason', error)}; run the command "
            "again to go on where it stopped, or download the file and give it with --checkpoint"
        ) from error
    validator_file.unlink(missing_ok=True)


def _fetch(url: str, part: Path, validator_file: Path, timeout: float) -> None:
    have = part.stat().st_size if part.exists() and validator_file.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator_file.read_text(encoding="ascii"))
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing is left to send, or it is another file
            raise
        part.unlink(missing_ok=True)
        return _fetch(url, part, validator_file, timeout)
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator:
            validator_file.write_text(validator, encoding="ascii")
        else:  # without one, a resumed file could be spliced from two
            validator_file.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as out, download_bar() as bar:
            task = bar.add_task(part.stem, total=total, completed=have)
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                bar.advance(task, len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise OSError(f"{size:,} of {total:,} bytes arrived")
