"""torch's process group of a training: NCCL on GPUs, gloo on CPUs."""

from typing import Any

from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend  # TorchConfig.backend_cls must return a subclass

from gen_ray.cluster.nodes.device import reserved_device


class CheckedTorchBackend(_TorchBackend):
    """Creates the process group after a check that every worker has its device.

    NCCL does not report which machine lacks a device.
    """

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Choose the backend by the workers' devices. Raise the UserError of a worker that cannot use its GPU."""
        kinds = {device.type for device in worker_group.execute(reserved_device)}
        backend_config.backend = "nccl" if kinds == {"cuda"} else "gloo"
        super().on_start(worker_group, backend_config)


class CheckedTorchConfig(TorchConfig):
    """TorchConfig that selects CheckedTorchBackend as the backend."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return CheckedTorchBackend."""
        return CheckedTorchBackend
