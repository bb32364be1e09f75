"""GPU kernels: the masked cross-attention of the fusion (paper Eq. 3-5), and a head's last layer.

The attention computes with the masks M and B without storing them as matrices.

    reference.py   the equations as the paper writes them, in any precision
    slots.py       the inputs of M and B: labels, depths, bits; K and V with the part of the disks
    language.py    the kernels in the Triton language
    launch.py      checks shapes, chooses blocks, launches the kernels
    choice.py      the measurements that decide where the kernels are used
    here.py        measures on this GPU, once, where there are no measurements
    cached.py      keeps measurements in the user's cache
    fused.py       which of PyTorch's own attentions is fastest on this GPU
    compiled.py    both halves of the network by `torch.compile`
    dot.py         the last convolution of a head as a dot product
    click_attention.py   all the masked attention of a click, by both ways, to measure it
    operations.py  kernels and PyTorch together as attention operations, for `set_attention_ops`
    cubins.py      compiles the kernels for GPUs that this machine lacks, to check them

All modules can be imported without a GPU. Only language.py, launch.py and cubins.py import Triton
(`pip install 'ois-deploy[kernels]'`).
"""
