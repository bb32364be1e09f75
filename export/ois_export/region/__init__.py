"""The click decoder in parts, so that engines can decode a region: graphs, coarse map, gate.

graphs.py      trunk.onnx, tail.onnx and crop.onnx
fit.py         the coarse map, fitted to the decoder's own logits
rehearsal.py   clicks on photographs and scenes, for the fit and the gate
gate.py        masks of regions against masks of the whole image
"""
