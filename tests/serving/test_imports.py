"""Imports of a replica: modules that it does not need are not loaded, because they delay its start."""

import subprocess
import sys


def test_a_replica_starts_without_mlflow() -> None:
    code = "import sys, gen_ray.cluster.serving.replica; print(sorted({'mlflow'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
