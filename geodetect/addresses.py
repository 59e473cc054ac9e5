"""Paths and URLs: which file is meant, and which part of it messages may show.

The query of a signed URL, and a user and password in it, are secrets. They are passed to GDAL and nowhere else:
messages and files contain `name_of` a file, or text after `redact`, and runs are compared by `identity`.
"""

from __future__ import annotations

import os
import re
from glob import glob
from pathlib import Path
from urllib.parse import parse_qs, unquote

_URL = re.compile(r"\w{2,}:/|/vsi")  # one letter before the colon is a drive of Windows
_LOGIN = re.compile(r"(\w{2,}:/{1,2})[^\s/?#'\"<>]+@")
# GDAL's messages quote the last part of a URL alone: `town.tif?ticket=...`, `get?id=...`. A question mark with nothing
# but punctuation after it ends a question: `(did you mean cars.onnx?);`.
_QUERY = re.compile(
    r"((?:\w{2,}:/|/vsi\w+)[^\s?'\"<>]*|\.[a-zA-Z]\w{1,7}|\w(?=\?[\w.-]+(?:=|%3[dD])))\?(?=[^\s'\"<>]*\w)[^\s'\"<>]+"
)
_PASSWORD = re.compile(r"(?i)\b(pass(?:word|wd)?|pwd)\s*=\s*(?:'[^']*'|[^\s;,'\"]+)")  # of a database
# Parameters of signatures by Amazon, Google, Alibaba, Tencent and others; the short ones are Azure's:
# https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas
_SIGNATURE = re.compile(
    r"(?i)(?:[?&#]|&amp;)(?:(?:x-\w+-|q-)[\w-]*"
    r"|[\w-]*(?:sig|token|secret|passw|credential|auth|policy|expir|key|access|session|hmac)[\w-]*"
    r"|s[eiprtv]|ss|srt|spr|sip|sk[estv]|skoid|sktid|sdd|saoid|suoid|scid|md5|jwt|nonce)=[^\s&'\"<>]*"
)


def is_url(address: str) -> bool:
    """Return whether an address is a URL or in a virtual file system of GDAL, and no existing file has its name."""
    return bool(_URL.match(address)) and not os.path.exists(address)


def name_of(address: str | Path) -> str:
    """Return the last part of a path or URL, which messages and files may show."""
    text = str(address)
    if os.path.exists(text):
        return Path(os.path.abspath(text)).name
    if text.startswith("<"):
        return "a virtual raster"
    options = parse_qs(text.partition("?")[2]) if text.startswith("/vsi") else {}
    if "url" in options:  # /vsicurl?max_retry=3&url=...
        return name_of(options["url"][0])
    shown = redact(text).rstrip("/")
    return Path(shown).name or shown


def redact(text: str) -> str:
    """Return a text with queries, users and passwords of URLs removed."""
    return _PASSWORD.sub(r"\1=...", _SIGNATURE.sub("", _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))))


def identity(text: str) -> str:
    """Return a URL, or a text with URLs, without the parts that change with each signature.

    Other parameters stay, since they may name the file. They may be secret too: use the result for checksums only.
    """
    return _SIGNATURE.sub("", _LOGIN.sub(r"\1", unquote(text)))


def expand_user(address: str | Path) -> str:
    """Return a path or URL with a leading `~` as the home folder, unless a file of that very name exists."""
    return str(address) if os.path.lexists(address) else os.path.expanduser(str(address))


def glob_files(pattern: str) -> list[str]:
    """Return the files that match a pattern, sorted; brackets in names of existing folders are literal."""
    folder, rest = Path(pattern), ""
    while folder.name and not os.path.exists(folder):
        folder, rest = folder.parent, os.path.join(folder.name, rest) if rest else folder.name
    return sorted(str(folder / found) for found in glob(rest, root_dir=folder)) if rest else []
