"""Every figure: chips and scenes with boxes, training curves, precision and recall.

Images come as arrays, curves as arrays and frames. All functions return a matplotlib Figure of their own: no window
opens, and pyplot keeps no state.
"""

from geodetect.plots.chips import check_rows, draw_chips
from geodetect.plots.curves import draw_curve, draw_losses, draw_rates
from geodetect.plots.errors import Mistake, draw_errors
from geodetect.plots.images import Marks, compute_limits, to_rgb
from geodetect.plots.scenes import Detail, Ground, draw_scene, find_fullest_part

__all__ = [
    "Detail",
    "Ground",
    "Marks",
    "Mistake",
    "check_rows",
    "compute_limits",
    "draw_chips",
    "draw_curve",
    "draw_errors",
    "draw_losses",
    "draw_rates",
    "draw_scene",
    "find_fullest_part",
    "to_rgb",
]
