"""The OIS network in PyTorch, the exact rewrites that cut it in two, and its checkpoints.

network.py      the network as the paper describes it; slow, and the truth of every test
split.py        the same network cut where a click cannot reach: `ImageEncoder`, `ClickDecoder`
checkpoint.py   self-describing files, Depth-Anything-V2 weights, foreign key mappings
"""
