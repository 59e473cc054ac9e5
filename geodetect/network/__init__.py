"""The network and what trains it: tensors in, raw tensors out, no maps and no files.

Shapes, here and in every module of this room: B pictures, C bands, H W pixels, A anchors,
K classes, N boxes, M boxes of a picture with padding (label -1), L levels of the pyramid.
"""
