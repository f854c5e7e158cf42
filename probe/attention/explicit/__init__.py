"""Attention by an explicit softmax: queries, keys, values, scale and mask read off the operations around it."""
