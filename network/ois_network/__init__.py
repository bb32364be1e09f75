"""The OIS network in PyTorch, its exact rewrites, its kernels, its checkpoints and its training.

network.py      the network as the paper describes it: slow, the reference of every test
split.py        the same network in two halves: `ImageEncoder`, `ClickDecoder`
encoders/       image encoders; dpt.py, order.py, prompt_encoders.py, fusion.py: the other parts
checkpoints/    files that describe their network, and conversion of other weights
kernels/        GPU kernels for the fusion's attention
training/       the paper's recipe, and the small network that ships
"""
