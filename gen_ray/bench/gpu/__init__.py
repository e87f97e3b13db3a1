"""The GPU benchmark: training, sampling and serving of GPU-size models, each next to a baseline in the same run.

``suite`` lists the measurements, ``running`` runs them within a time limit, ``report`` formats the results. It needs
no data set, and only torch, numpy and the packages that read a configuration: it runs on a bare machine.
"""
