"""Label files and lists of images: one definition of a line, and control characters refused."""

import os

import pytest

from dfvt_deploy.data import read_labels
from dfvt_deploy.errors import BadInput
from dfvt_deploy.text_files import MAX_BYTES, read_lines


def written(tmp_path, data):
    path = tmp_path / "labels.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\n",
        "cat\ndog\nbird",
        "cat\r\ndog\r\nbird\r\n",
        "\ufeffcat\ndog\nbird\n\n\n",
        "  cat\ndog \nbird\n",
    ],
)
def test_lf_and_crlf_end_a_label(tmp_path, text):
    assert read_labels(written(tmp_path, text)) == ("cat", "dog", "bird")


def test_labels_of_any_language_are_kept(tmp_path):
    names = ("Ünïcorn 🦄", "ネコ", "👩\u200d🚀", "a\u00a0b", 'say "x", <b>&', "0")
    assert read_labels(written(tmp_path, "\n".join(names))) == names


@pytest.mark.parametrize(
    "character",
    [
        "\0",
        "\t",
        "\r",
        "\x0b",
        "\x0c",
        "\x1b",
        "\x1c",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
    ],
)
def test_a_control_character_is_named_with_its_place(tmp_path, character):
    path = written(tmp_path, f"cat\ndo{character}g\nbird\n")
    message = rf"labels\.txt: line 2, column 3 is the control character U\+{ord(character):04X}"
    with pytest.raises(BadInput, match=message):
        read_labels(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "line 1 is empty"),
        ("\n\n", "line 1 is empty"),
        ("cat\n\ndog\n", "line 2 is empty"),
        ("cat\ndog\ncat \n", "lines 1 and 3 are both 'cat'"),
        ("cat\ndog\n".encode("utf-16"), "is not UTF-8 text: byte 0 is wrong"),
        ("chien\nœuf\n".encode("cp1252"), "is not UTF-8 text: byte 6 is wrong"),
    ],
)
def test_what_is_no_label_file_is_refused(tmp_path, data, message):
    with pytest.raises(BadInput, match=message):
        read_labels(written(tmp_path, data))


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path):
    with pytest.raises(BadInput, match=r"labels .*none\.txt does not exist"):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(BadInput, match="is not a regular file"):
        read_labels(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInput, match="is not a regular file"):
        read_labels(tmp_path / "fifo")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(BadInput, match="has 67,108,865 bytes, the limit is 67,108,864"):
        read_labels(tmp_path / "large")
    with pytest.raises(BadInput, match="cannot be read: File name too long"):
        read_labels(tmp_path / ("x" * 300))


def test_a_character_may_be_allowed(tmp_path):
    path = written(tmp_path, "a.png\t3\n")
    assert read_lines(path, "list", allowed="\t") == ["a.png\t3"]
