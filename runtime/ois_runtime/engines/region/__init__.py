"""Decoding a click only where the mask can change.

windows.py     which part of each map a box of patches needs, and the matrices of its upsamplings
boxes.py       which boxes of patches to decode, from the coarse map and the clicks
decoder.py     a click: trunk, choice of boxes, tails, growth, assembly
sharing.py     the trunk's results, shared by a click's coarse answer and its full one
finish.py      what follows the last convolution: clicked pixels are right, and the coverage
"""
