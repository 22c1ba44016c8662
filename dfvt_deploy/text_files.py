"""Text files with one entry a line, names that fit on one, and text that is safe to print."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from .errors import BadInput


def lines(text: str) -> list[str]:
    """The lines of a text, which end with LF or CR LF and with nothing else."""
    found = text.removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in found]


def check_name(name: str) -> str:
    """Return a name that fits on one line, such as a class name. Raises ValueError where it is
    empty or has a control character, a line separator or half a surrogate pair."""
    if not name.strip():
        raise ValueError("a name is empty")
    if found := re.search("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]", name):
        raise ValueError(f"{name!r} has the character U+{ord(found[0]):04X}, which no name may")
    return name


def printable(text: object) -> str:
    """The text with everything that a terminal would act on or cannot show as a backslash escape:
    control characters, line breaks, direction marks and bytes of a file name that are not UTF-8.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


#: Largest text file that is read: 64 MiB.
MAX_BYTES = 64 * 2**20

#: Control characters, Unicode's line and paragraph separators, and a byte order mark.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


def read_text(path: Path, what: str, limit: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises BadInput, beginning with `what`,
    where it is missing, not a regular file, larger than the limit in bytes or not UTF-8."""
    try:
        if not path.exists():
            raise BadInput(f"{what} does not exist")
        if not path.is_file():
            raise BadInput(f"{what} is not a regular file")
        if (size := path.stat().st_size) > limit:
            raise BadInput(f"{what} has {size:,} bytes, the limit is {limit:,}")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text: byte {error.start} is wrong; save it as UTF-8"
        raise BadInput(f"{what} {problem}") from None
    except OSError as error:
        raise BadInput(f"{what} cannot be read: {error.strerror}") from None


def read_lines(path: Path, what: str, allowed: str = "") -> list[str]:
    """The lines of a UTF-8 text file, which end with LF or CR LF and with nothing else, without a
    byte order mark at the start.

    what: the content of the file, named in messages, such as `labels`.
    allowed: control characters that lines may have.
    Raises BadInput where the file is missing, not a regular file, larger than 64 MiB or not UTF-8,
    or a line has a control character or a line separator.
    """
    found = lines(read_text(path, f"{what} {path}"))
    for number, line in enumerate(found, 1):
        for match in _CONTROL.finditer(line):
            if match[0] not in allowed:
                raise BadInput(
                    f"{what} {path}: line {number}, column {match.start() + 1} is the control "
                    f"character U+{ord(match[0]):04X}; remove it (lines end with LF or CR LF)"
                )
    return found


def near(name: str, known: Iterable[str]) -> str:
    """A hint at known names that are spelt alike; empty where there is none."""
    found = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(found)}?" if found else ""
