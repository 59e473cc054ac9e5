"""A page to look at a map with: one HTML file that needs no server and no network."""

from geodetect.viewer.compose import view
from geodetect.viewer.page import Page

__all__ = ["Page", "view"]
