"""Texts as other programs and systems write them: their encodings, line ends and numbers."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from geodetect.errors import LabelsError

# The longer mark of UTF-32 begins with that of UTF-16.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
# Chinese and Korean Windows write two bytes a character, both in this range (GB 2312, KS X 1001). The accented letters
# of Western texts are bytes of that range too, but rarely stand in pairs alone.
_PAIRS = re.compile(rb"(?:[\xa1-\xfe]{2})+")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")


def content_of(path: Path) -> bytes:
    """The content of a file without a byte-order mark; as UTF-8 where the mark says UTF-16 or UTF-32.

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
        raise LabelsError(f"{path} begins like {error.encoding} and breaks off; save it as UTF-8") from error


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, UTF-16 or UTF-32 with a byte-order mark, or else Windows-1252.

    Bytes that are probably two to a character, in an encoding that the file does not name, become lone surrogates,
    which no class name may hold.

    Raises:
        LabelsError: if it cannot be read.
    """
    content = content_of(path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        if all(_PAIRS.fullmatch(run) for run in _BEYOND_ASCII.findall(content)):
            return content.decode("utf-8", errors="surrogateescape")
        return content.decode("cp1252", errors="replace")


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, stripped, with their numbers from 1.

    Raises:
        LabelsError: if it cannot be read.
    """
    return [(n, line.strip()) for n, line in enumerate(re.split(r"\r\n|\r|\n", text_of(path)), start=1) if line.strip()]


def number(text: str) -> float:
    """A number, with a decimal point or a decimal comma.

    Raises:
        ValueError: if the text is none.
    """
    if text.count(",") == 1 and "." not in text:
        text = text.replace(",", ".")
    if "_" in text:  # which Python allows between digits
        raise ValueError(f"could not convert string to float: {text!r}")
    return float(text)
