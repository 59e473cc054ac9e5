"""Every figure: chips and scenes with boxes, training curves, the operating point.

Pictures come as arrays, curves as arrays and frames. All functions give a matplotlib Figure of their own: nothing
pops up, and no state is kept in pyplot.
"""

from geodetect.colours import OUTCOMES, class_colours
from geodetect.plots.chips import check_rows, chip_figure
from geodetect.plots.curves import curve_figure, losses_figure, lr_figure
from geodetect.plots.errors import Mistake, errors_figure
from geodetect.plots.pictures import as_rgb, shown_limits
from geodetect.plots.scenes import Detail, Ground, fullest_part, scene_figure

__all__ = [
    "OUTCOMES",
    "Detail",
    "Ground",
    "Mistake",
    "as_rgb",
    "check_rows",
    "chip_figure",
    "class_colours",
    "curve_figure",
    "errors_figure",
    "fullest_part",
    "losses_figure",
    "lr_figure",
    "scene_figure",
    "shown_limits",
]
