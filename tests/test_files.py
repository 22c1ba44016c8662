"""Files are written whole or not at all."""

import os
import signal
import subprocess
import sys

import pytest

from dfvt_deploy.files import staged, staging_directory, write_text


def test_an_error_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "folder" / "file"
    write_text(path, "before")
    with pytest.raises(RuntimeError), staged(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "before"
    assert list(path.parent.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path):
    write_text(tmp_path / "file", "text")
    (tmp_path / "other").write_text("text")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    code = (
        "import sys; from pathlib import Path; from dfvt_deploy.files import *;"
        "file = staged(Path(sys.argv[1]) / 'model'); file.__enter__().write_text('half');"
        "folder = staging_directory(Path(sys.argv[1]) / 'repository');"
        "(folder.__enter__() / 'inside').write_text('half');"
        "print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(tmp_path / "model", "whole")  # does not disturb a process that still writes
    assert len(list(tmp_path.iterdir())) == 3
    process.send_signal(signal.SIGKILL)
    process.communicate()
    write_text(tmp_path / "model", "whole")
    with staging_directory(tmp_path / "repository"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert os.getpid() != process.pid
