"""Paths and URLs: which file is meant, and what may be shown of it.

The query of a signed URL, and a user and password in it, open a file to whoever reads them. They go to GDAL and
nowhere else: messages and files show `name_of` a file, or a text that is `unsigned`, and runs are compared by
`identity`.
"""

from __future__ import annotations

import os
import re
from glob import glob
from pathlib import Path
from urllib.parse import parse_qs, unquote

_URL = re.compile(r"\w{2,}:/|/vsi")  # one letter before the colon is a drive of Windows
_LOGIN = re.compile(r"(\w{2,}:/{1,2})[^\s/?#'\"<>]+@")
# GDAL quotes the last part of a URL alone: `town.tif?ticket=...`, `get?id=...`.
_QUERY = re.compile(r"((?:\w{2,}:/|/vsi\w+)[^\s?'\"<>]*|\.[a-zA-Z]\w{1,7}|\w(?=\?[\w.-]+(?:=|%3[dD])))\?[^\s'\"<>]+")
_PASSWORD = re.compile(r"(?i)\b(pass(?:word|wd)?|pwd)\s*=\s*(?:'[^']*'|[^\s;,'\"]+)")  # of a database
# Parameters by which Amazon, Google, Alibaba, Tencent and others sign; the short ones are Azure's:
# https://learn.microsoft.com/en-us/rest/api/storageservices/create-service-sas
_SIGNATURE = re.compile(
    r"(?i)(?:[?&#]|&amp;)(?:(?:x-\w+-|q-)[\w-]*"
    r"|[\w-]*(?:sig|token|secret|passw|credential|auth|policy|expir|key|access|session|hmac)[\w-]*"
    r"|s[eiprtv]|ss|srt|spr|sip|sk[estv]|skoid|sktid|sdd|saoid|suoid|scid|md5|jwt|nonce)=[^\s&'\"<>]*"
)


def is_url(address: str) -> bool:
    """Whether an address is a server's or one of GDAL's virtual files, and not the path of a file that exists."""
    return bool(_URL.match(address)) and not os.path.exists(address)


def name_of(address: str | Path) -> str:
    """The last part of a path or URL, which messages and files may show."""
    text = str(address)
    if os.path.exists(text):
        return Path(os.path.abspath(text)).name
    if text.startswith("<"):
        return "a virtual raster"
    options = parse_qs(text.partition("?")[2]) if text.startswith("/vsi") else {}
    if "url" in options:  # /vsicurl?max_retry=3&url=...
        return name_of(options["url"][0])
    shown = unsigned(text).rstrip("/")
    return Path(shown).name or shown


def unsigned(text: str) -> str:
    """A text in which URLs have no queries, users or passwords."""
    return _PASSWORD.sub(r"\1=...", _SIGNATURE.sub("", _QUERY.sub(r"\1", _LOGIN.sub(r"\1", text))))


def identity(text: str) -> str:
    """A URL, or a text with URLs, without what changes when they are signed anew.

    Other parameters stay, since they may name the file; they may be secret too, so use this for a checksum only.
    """
    return _SIGNATURE.sub("", _LOGIN.sub(r"\1", unquote(text)))


def expanded(address: str | Path) -> str:
    """A path or URL, with a leading `~` as the home folder unless a file of that very name exists."""
    return str(address) if os.path.lexists(address) else os.path.expanduser(str(address))


def matches(pattern: str) -> list[str]:
    """The files that a pattern fits, in order; brackets in the names of existing folders are no pattern."""
    folder, rest = Path(pattern), ""
    while folder.name and not os.path.exists(folder):
        folder, rest = folder.parent, os.path.join(folder.name, rest) if rest else folder.name
    return sorted(str(folder / found) for found in glob(rest, root_dir=folder)) if rest else []
