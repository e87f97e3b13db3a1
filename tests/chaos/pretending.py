"""gen-ray with simulated GPUs: ``python -m tests.chaos.pretending VERB …`` on a cluster that counts some.

Every process that gets one records its number and computes on the CPU.
"""

import os
from pathlib import Path

ROOT, NOTES = Path(__file__).parents[2], "PRETENDED_GPUS"


def pretend() -> None:
    """Replace the functions that look for a GPU. Ray calls this in every process that it starts for this driver."""
    import torch

    from gen_ray.cluster.nodes import device

    def usable(gpu: str) -> torch.device:
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.write(f"{os.getpid()} {gpu}\n")
        return torch.device("cpu")

    device.usable = usable


if __name__ == "__main__":
    import ray

    from pipelines import cli

    # The checkout and the present PYTHONPATH: tests/gpu/README.md installs packages in a folder of it.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {NOTES: os.environ[NOTES], "PYTHONPATH": path}
    hook = {"worker_process_setup_hook": "tests.chaos.pretending.pretend", "env_vars": variables}
    ray.init(runtime_env=hook, log_to_driver=False)
    cli.main()
