"""gen-ray with GPUs that Ray counts and nobody has: ``python -m tests.chaos.pretending VERB …`` on a cluster with some.

Every process that is given one notes its number, and computes on the CPU.
"""

import os
from pathlib import Path

ROOT, NOTES = Path(__file__).parents[2], "PRETENDED_GPUS"


def pretend() -> None:
    """Take the place of what would look for a GPU. Ray calls it in every process that it starts for this driver."""
    import torch

    from gen_ray.cluster.training import device

    def usable(gpu: str) -> torch.device:
        with Path(os.environ[NOTES]).open("a") as notes:
            notes.write(f"{os.getpid()} {gpu}\n")
        return torch.device("cpu")

    device.usable = usable


if __name__ == "__main__":
    import ray

    from pipelines import cli

    # Besides the checkout all that this process was given: tests/gpu/README.md installs packages in a folder of it.
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {NOTES: os.environ[NOTES], "PYTHONPATH": path}
    hook = {"worker_process_setup_hook": "tests.chaos.pretending.pretend", "env_vars": variables}
    ray.init(runtime_env=hook, log_to_driver=False)
    cli.main()
