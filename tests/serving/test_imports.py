"""What a replica does not load: each second of its start is one without it."""

import subprocess
import sys


def test_a_replica_starts_without_mlflow() -> None:
    code = "import sys, gen_ray.cluster.serving.replica; print(sorted({'mlflow'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
