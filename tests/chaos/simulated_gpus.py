"""gen-ray with simulated GPUs: ``python -m tests.chaos.simulated_gpus VERB …`` on a cluster that counts some.

Every process that gets one records its number and computes on the CPU.
"""

import os
from pathlib import Path

ROOT, GPU_LOG = Path(__file__).parents[2], "SIMULATED_GPU_LOG"


def simulate_gpus() -> None:
    """Replace the functions that look for a GPU. Ray calls this in every process that it starts for this driver."""
    import torch

    from gen_ray.cluster.nodes import device

    def usable(gpu: str) -> torch.device:
        with Path(os.environ[GPU_LOG]).open("a") as notes:
            notes.write(f"{os.getpid()} {gpu}\n")
        return torch.device("cpu")

    device.usable = usable


if __name__ == "__main__":
    import ray

    from pipelines import cli

    # The checkout and the present PYTHONPATH: tests/gpu/README.md installs packages in a folder of it.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {GPU_LOG: os.environ[GPU_LOG], "PYTHONPATH": path}
    hook = {"worker_process_setup_hook": "tests.chaos.simulated_gpus.simulate_gpus", "env_vars": variables}
    ray.init(runtime_env=hook, log_to_driver=False)
    cli.main()
