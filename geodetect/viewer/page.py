"""The page as HTML: made from its template, saved, and shown in a notebook."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.image import imsave

from geodetect.errors import OutputError
from geodetect.files import replace_atomically
from geodetect.vector.outputs import check_place

_NOTEBOOK_HEIGHT = 720  # px of the page inside a notebook
_TEMPLATE, _STYLE, _SCRIPTS = "page.html", "page.css", ("places.js", "drawing.js", "page.js")
_QUALITY = 88  # of the scene's JPEG, 0 to 100; above it the page only grows


@dataclass(frozen=True, repr=False)
class Page:
    """A page that a notebook shows by itself, and that `save` writes.

    Args:
        html: the whole page.
    """

    html: str

    @classmethod
    def of(cls, name: str, rgb: Float[np.ndarray, "H W 3"], content: Mapping[str, Any]) -> Page:
        """Fill the template.

        Args:
            name: of the scene.
            rgb: its picture, 0 to 1.
            content: the objects that the scripts draw, as JSON holds them.
        """
        part = {name: files(__package__).joinpath(name).read_text("utf-8") for name in (_TEMPLATE, _STYLE, *_SCRIPTS)}
        jpeg = BytesIO()
        imsave(jpeg, rgb, format="jpeg", pil_kwargs={"quality": _QUALITY})
        page = Template(part[_TEMPLATE]).substitute(
            name=html.escape(name.encode("utf-8", "replace").decode()),  # names of files may hold anything
            style=part[_STYLE],
            scripts="\n".join(part[name] for name in _SCRIPTS),
            picture=b64encode(jpeg.getvalue()).decode(),
            # A class may be called anything, so nothing in the text may end the element that holds it.
            content=json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        )
        return cls(page)

    def __repr__(self) -> str:
        return f"<Page of {len(self.html) / 1e6:.1f} MB: .save('map.html') writes it>"  # a notebook stores it, too

    def _repr_html_(self) -> str:
        frame = f'title="Map" style="width:100%;height:{_NOTEBOOK_HEIGHT}px;border:0"'
        return f'<iframe srcdoc="{html.escape(self.html)}" {frame}></iframe>'

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, complete or not at all; an older one is replaced.

        Returns:
            `path`.

        Raises:
            OutputError: if its name does not end in `.html`, or it cannot be written there.
        """
        path = check_place(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise OutputError(f"the page is saved as .html; got {path.name}")
        with replace_atomically(path) as part:
            part.write_text(self.html, encoding="utf-8")
        return path
