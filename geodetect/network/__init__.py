"""The network and its parts: tensors in, raw tensors out, no maps and no files.

Shapes, here and in every module of this room: B images, C bands, H W pixels, A anchors,
K classes, N boxes, M boxes of an image with padding (label -1), L levels of the pyramid.
"""
