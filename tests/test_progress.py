"""Progress on a terminal, and answers that go elsewhere."""

import os
import pty
import subprocess
import sys

CODE = """
from dfvt_deploy.cli.output import print_line, print_table
from dfvt_deploy.progress import image_bar, spinner
with spinner("a step [of a kind]"):
    print_line("during a step")
with image_bar("predict", 2) as done:
    print_line("an answer")
    print_table("answers", ["class"], [["cat"]])
    done()
"""


def test_answers_go_to_their_file_while_the_terminal_has_a_bar(tmp_path):
    terminal, stderr = pty.openpty()
    with (tmp_path / "answers.txt").open("w") as stdout:
        subprocess.run([sys.executable, "-c", CODE], stdout=stdout, stderr=stderr, check=True)
    os.close(stderr)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how Linux says that a terminal has no writer left
        pass
    os.close(terminal)
    answers = (tmp_path / "answers.txt").read_text()
    assert answers.startswith("during a step\nan answer\nanswers\n")
    assert "cat" in answers
    assert b"an answer" not in shown
    assert b"a step [of a kind]" in shown
    assert b"predict" in shown
