"""The GPU benchmark: training, sampling and serving of GPU-size models, each beside its baseline in the same run.

``suite`` lists the measurements, ``running`` carries them out within a time limit, ``report`` makes tables of them.
It needs no data set, and of packages only torch, numpy and those that read a configuration: it runs on a bare machine.
"""
