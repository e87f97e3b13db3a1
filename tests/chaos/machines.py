"""Several Ray nodes on this machine, each with its own raylet, and commands that run on them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.cluster_utils import Cluster

from gen_ray.experiment import Experiment
from tests.conftest import ROOT

FAST_HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""The head notices a lost node after two seconds; Ray's default would take most of a test."""


@contextmanager
def machines(*cpus: int, **head: Any) -> Iterator[tuple[Cluster, list[Any]]]:
    """Yield a cluster and its further nodes; cpus are those of the head, then of each node; head: its other options."""
    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": cpus[0], "_system_config": FAST_HEALTH_CHECKS, **head}
    )
    try:
        yield nodes, [nodes.add_node(num_cpus=number) for number in cpus[1:]]
    finally:
        nodes.shutdown()


def power_cut(node: Any) -> None:
    """Kill all processes of a node at once.

    If only the raylet is killed, its workers continue for some seconds: the node's HTTP proxy, which listens on the
    same port as the others here, answers 500 during that time.
    """
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    raylet.suspend()  # it starts no further worker
    for process in (*raylet.children(recursive=True), raylet):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def start_on(nodes: Cluster, verb: str, *words: object, **environment: str) -> "subprocess.Popen[str]":
    """Start a command on a cluster."""
    module = verb if "." in verb else f"pipelines.{verb}"
    command = [sys.executable, "-m", module, *map(str, words)]
    own = {**os.environ, "RAY_ADDRESS": nodes.address, **environment}
    return subprocess.Popen(command, cwd=ROOT, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_while_running(reached: Callable[[], Any], driver: "subprocess.Popen[str]", seconds: float = 100) -> float:
    """Wait until a condition holds while a command runs, and return the seconds."""
    began = time.monotonic()
    while not reached():
        assert driver.poll() is None, driver.stdout and driver.stdout.read()
        if time.monotonic() > began + seconds:
            driver.terminate()
            output, _ = driver.communicate(timeout=60)
            raise AssertionError(f"not reached within {seconds:.0f} s; the command's output:\n{output}")
        time.sleep(0.05)
    return time.monotonic() - began


def wait_for_success(driver: "subprocess.Popen[str]", seconds: float = 120) -> None:
    """Wait for a command to end, and check that it succeeded."""
    output, _ = driver.communicate(timeout=seconds)
    assert driver.returncode == 0, output


def write_config(experiment: Experiment, folder: Path) -> Path:
    """Write the configuration file of an experiment and return its path."""
    file = folder / f"{experiment.name}.yaml"
    file.write_text(yaml.safe_dump(experiment.resolved()))
    return file
