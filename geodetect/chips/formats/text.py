"""Text files as other programs and systems write them: encodings, line ends and numbers."""

from __future__ import annotations

import codecs
import math
import re
from pathlib import Path
from typing import NamedTuple

from geodetect.errors import LabelsError

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Chinese and Korean Windows write two bytes a character, both in this range (GB 2312, KS X 1001). The accented letters
# of Western texts are bytes of that range too, but rarely occur in pairs only.
_PAIRS = re.compile(rb"(?:[\xa1-\xfe]{2})+")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")


class Line(NamedTuple):
    """A line of a text and its number from 1."""

    number: int
    text: str


def read_bytes(path: Path) -> bytes:
    """Read a file without its byte-order mark, re-encoded as UTF-8 if the mark says UTF-16 or UTF-32.

    Raises:
        LabelsError: if it cannot be read.
    """
    try:
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
        return content.removeprefix(codecs.BOM_UTF8) if encoding is None else content.decode(encoding).encode()
    except OSError as error:
        raise LabelsError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path} begins as {error.encoding} but is incomplete; save it as UTF-8") from error


def read_text(path: Path) -> str:
    """Read a text in UTF-8, in UTF-16 or UTF-32 with a byte-order mark, or else in Windows-1252.

    Bytes that are probably two to a character, in an encoding that the file does not name, become lone surrogates,
    which class names must not contain.

    Raises:
        LabelsError: if it cannot be read.
    """
    content = read_bytes(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        if all(_PAIRS.fullmatch(run) for run in _BEYOND_ASCII.findall(content)):
            return content.decode("utf-8", errors="surrogateescape")
        return content.decode("cp1252", errors="replace")


def read_lines(path: Path) -> list[Line]:
    """Read the lines of a text that are not blank, stripped.

    Raises:
        LabelsError: if it cannot be read.
    """
    rows = enumerate(re.split(r"\r\n|\r|\n", read_text(path)), start=1)
    return [Line(number, text.strip()) for number, text in rows if text.strip()]


def parse_number(text: str) -> float:
    """Parse a number with a decimal point or a decimal comma.

    Raises:
        ValueError: if the text is not a number.
    """
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:  # which Python allows between digits
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)


def is_number(word: str) -> bool:
    """Return whether a word is a finite number as `parse_number` reads it."""
    try:
        return math.isfinite(parse_number(word))
    except ValueError:
        return False
