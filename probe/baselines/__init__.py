"""Matchers that need no model: images to one descriptor per token, scored by the same code as attention.

Each has the form ``describe(image [b f 3 height width], grid (h, w)) -> [b f n d]``, tokens rows before columns. All
descriptors of a baseline have one Euclidean norm, so that the largest dot product is the nearest neighbour.
"""

from probe.baselines import dsift, pixels

BASELINES = {"dsift": dsift.describe, "pixels": pixels.describe}
