"""Tests; `shapes` is imported here because jaxtyping looks its checker up as an attribute."""

from tests import shapes

__all__ = ["shapes"]
