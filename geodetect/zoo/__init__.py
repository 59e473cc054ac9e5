"""Detectors that others have published: what a name means, where its files come from, how they are run."""

from geodetect.zoo.catalog import published
from geodetect.zoo.names import load_detector

__all__ = ["load_detector", "published"]
