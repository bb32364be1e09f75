"""Eight-bit engines for CPUs: calibration, quantisation, and the gate that chooses the layers.

calibration.py   pictures, and the inputs of both graphs that they give
quantise.py      an fp32 graph and the ranges of its tensors -> a graph with int8 products
search.py        which layers stay as they are: measured one group at a time, then by the gate
parts.py         the parts that decode a region, quantised as the whole decoder was
robot.py         the gate: the robot user on the engines, in fp32 and in int8
"""
