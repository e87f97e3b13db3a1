"""How the workers of a training find together: by NCCL on GPUs, by gloo on CPUs."""

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend  # what a TorchConfig of one's own has to name

from gen_ray.cluster.training.device import reserved_device


class Gathering(_TorchBackend):
    """Makes the process group once every worker has been seen to have its device.

    NCCL, asked first, fails without a word on which machine lacks what.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Choose the backend by the devices. Raise the UserError of a worker that cannot use its GPU."""
        kinds = {device.type for device in worker_group.execute(reserved_device)}
        backend_config.backend = "nccl" if kinds == {"cuda"} else "gloo"
        super().on_start(worker_group, backend_config)


class Gathered(TorchConfig):
    """What tells a TorchTrainer of it."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return Gathering."""
        return Gathering
