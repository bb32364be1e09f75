"""Masked cross-attention of the fusion (paper Eq. 3-5) without writing its masks out.

    reference.py   the equations, letter by letter, in any precision
    slots.py       what M and B are made of: labels, depths, bits; K and V with their disks' part
    language.py    the two GPU kernels, in the Triton language
    launch.py      shapes checked, blocks chosen, kernels launched
    choice.py      where the kernels are used: where a measurement says that they are faster
    operations.py  both together as attention operations for `set_attention_ops`
    cubins.py      the kernels compiled ahead of time, one file an architecture (elf.py reads them)

Nothing here needs a GPU to be imported, and only language.py, launch.py and cubins.py import
Triton (`pip install 'ois-deploy[kernels]'`).
"""
