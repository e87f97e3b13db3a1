"""Cluster files: they are valid for Ray, Kubernetes and gen-ray, and contain no secret."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from gen_ray.errors import UserError
from gen_ray.experiment import load
from gen_ray.sweeps import config as sweeps
from gen_ray.tracking import signing
from pipelines import cli
from tests.conftest import ROOT
from tests.kubernetes import faults, mappings
from tests.launching import carry_out, job

LAUNCHED = [ROOT / "cluster.yaml", ROOT / "configs" / "cluster" / "local.yaml"]
MANIFESTS = sorted((ROOT / "configs" / "cluster" / "kuberay").glob("*.yaml"))
DOCKERFILE = ROOT / "configs" / "cluster" / "Dockerfile"
FILES = [*LAUNCHED, *MANIFESTS, DOCKERFILE]
OBJECTS = [(file, node) for file in MANIFESTS for node in yaml.safe_load_all(file.read_text())]
INSTALLED = "/home/ray/gen_ray"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")

by_name = pytest.mark.parametrize("file", LAUNCHED, ids=lambda file: file.name)
by_object = pytest.mark.parametrize(
    ("file", "node"), OBJECTS, ids=lambda it: it.get("kind") if isinstance(it, dict) else it.stem
)


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [node for _, node in OBJECTS if node["kind"] == kind]


def containers() -> Iterator[dict[str, Any]]:
    for _, node in OBJECTS:
        for below in mappings(node):
            yield from below.get("containers", [])


def clusters() -> Iterator[dict[str, Any]]:
    """Yield the specification of every Ray cluster in any kind of manifest."""
    for _, node in OBJECTS:
        yield from (below for below in mappings(node) if "headGroupSpec" in below)


# --- files for ray up


@by_name
def test_ray_up_accepts_the_file(file: Path) -> None:
    from ray.autoscaler._private import util

    raw = yaml.safe_load(file.read_text())
    schema = json.loads((Path(util.__file__).parents[1] / "ray-schema.json").read_text())
    jsonschema.validate(raw, schema)
    prepared = util.prepare_config(raw)
    util.validate_config(prepared)
    assert prepared["head_start_ray_commands"] == raw["head_start_ray_commands"]


def test_gpu_machines_are_added_and_removed_with_the_load() -> None:
    raw = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head, worker = (raw["available_node_types"][name] for name in ("head", "gpu_worker"))
    assert raw["head_node_type"] == "head" and "GPU" not in head["resources"]
    assert worker["resources"]["GPU"] > 0 and worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= raw["max_workers"]


def test_all_machines_of_a_fixed_list_are_used() -> None:
    from ray.autoscaler._private.util import prepare_config

    raw = yaml.safe_load(LAUNCHED[1].read_text())
    [kind] = prepare_config(raw)["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(raw["provider"]["worker_ips"])


@by_name
def test_the_token_is_copied_from_the_head_to_the_workers_only(file: Path) -> None:
    raw = yaml.safe_load(file.read_text())
    assert raw["cluster_synced_files"] == ["~/.ray/auth_token"]
    assert not any(".ray" in path for pair in raw["file_mounts"].items() for path in pair)
    commands = " ".join(line for part in (*STARTS, "setup_commands") for line in raw[part])
    assert "RAY_AUTH_MODE=token" in commands and "--insecure" not in commands
    assert not re.search(
        r"RAY_AUTH_TOKEN\b|get-auth-token", commands
    )  # the first is visible in ps, the second prints the token
    [head] = [line for line in raw["head_start_ray_commands"] if "gen-ray start head" in line]
    assert (
        "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    )  # the file of the launcher, which starts the workers


@by_name
def test_only_ssh_is_open_to_the_outside(file: Path) -> None:
    raw = yaml.safe_load(file.read_text())
    assert set(raw["provider"].get("security_group", {})) <= {"GroupName"}
    assert not re.search(r"--(dashboard-)?host|0\.0\.0\.0", " ".join(line for part in STARTS for line in raw[part]))


@by_name
def test_copied_files_exist(file: Path) -> None:
    for remote, local in yaml.safe_load(file.read_text())["file_mounts"].items():
        assert (ROOT / local).exists() and remote == f"~/gen_ray/{local}"


@by_name
def test_every_shell_of_the_cluster_has_the_variables_once(file: Path, tmp_path: Path) -> None:
    """Bash parses all commands; those that write the variables are executed twice, as by ray up."""
    raw = yaml.safe_load(file.read_text())
    for line in (*raw["setup_commands"], *(line for part in STARTS for line in raw[part])):
        subprocess.run(["bash", "-n", "-c", line], check=True)
    (tmp_path / ".gen_ray_secrets").write_text("export MLFLOW_BACKEND_STORE_URI=postgresql:///mlflow\n")
    for _ in range(2):
        for line in raw["setup_commands"][:2]:
            subprocess.run(["bash", "-c", line], check=True, env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert (tmp_path / ".bashrc").read_text() == ". ~/.gen_ray_env\n"
    shell = ["bash", "-c", ". ~/.bashrc && env"]
    done = subprocess.run(
        shell, check=True, text=True, capture_output=True, env={"HOME": str(tmp_path), "PATH": "/bin"}
    )
    variables = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert variables["RAY_AUTH_MODE"] == "token" and variables["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"
    assert variables["MLFLOW_BACKEND_STORE_URI"] == "postgresql:///mlflow" and variables["GEN_RAY_STORAGE"]
    assert variables["PATH"].startswith(f"{tmp_path}/gen_ray_venv/bin:")


# --- files for Kubernetes


@by_object
def test_every_field_is_a_field_of_kubernetes(file: Path, node: dict[str, Any]) -> None:
    assert not faults(node)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"minReplica": 0},
        {"maxReplicas": "4"},
        {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}},
        {"template": {"spec": {"containers": [], "tolerations": [{"operator": "Equals"}]}}},
    ],
    ids=["misspelt", "text for a number", "no resources", "not one of the words"],
)
def test_a_wrong_field_is_detected(spoilt: dict[str, Any]) -> None:
    [cluster] = of_kind("RayCluster")
    group = {**cluster["spec"]["workerGroupSpecs"][0], **spoilt}
    assert faults({**cluster, "spec": {**cluster["spec"], "workerGroupSpecs": [group]}})


def test_every_cluster_has_a_token_and_scales_with_the_load() -> None:
    found = list(clusters())
    assert len(found) == 4
    for spec in found:
        assert spec["authOptions"] == {"mode": "token"} and spec["enableInTreeAutoscaling"] is True
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] > group["minReplicas"]


def test_a_group_with_gpus_requests_them_and_tolerates_their_nodes() -> None:
    groups = [group for spec in clusters() for group in spec["workerGroupSpecs"] if group["groupName"] == "gpu"]
    assert groups
    for group in groups:
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        assert (
            container["resources"]["requests"]["nvidia.com/gpu"] == container["resources"]["limits"]["nvidia.com/gpu"]
        )
        assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]


def test_no_container_is_root_or_without_memory() -> None:
    pods = [node for _, whole in OBJECTS for node in mappings(whole) if "containers" in node]
    assert pods and all(pod["securityContext"]["runAsNonRoot"] for pod in pods)
    for container in containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["requests"]["memory"] and container["resources"]["limits"]["memory"]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the role (head, workers or another kind) and the specification of every pod."""
    for spec in clusters():
        yield "head", spec["headGroupSpec"]["template"]["spec"]
        yield from (("worker", group["template"]["spec"]) for group in spec["workerGroupSpecs"])
    for _, node in OBJECTS:
        if node["kind"] in ("Deployment", "CronJob"):
            yield "other", next(below for below in mappings(node) if "containers" in below)


def test_only_heads_have_a_token_of_kubernetes() -> None:
    """The autoscaler of a head needs the token."""
    assert {kind for kind, _ in pods()} == {"head", "worker", "other"}
    for kind, pod in pods():
        assert pod.get("automountServiceAccountToken", True) is (kind == "head")


def test_file_systems_are_read_only_except_in_pods_of_ray() -> None:
    for kind, pod in pods():
        [container] = pod["containers"]
        read_only = container["securityContext"].get("readOnlyRootFilesystem", False)
        assert read_only is (kind == "other")
        if read_only:  # for temporary files of Python
            assert "/tmp" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_every_pod_has_a_policy_for_both_directions() -> None:
    policies = [node["spec"] for node in of_kind("NetworkPolicy")]
    labels = [{"ray.io/is-ray-node": "yes"}, {"app": "gen-ray-mlflow"}, {"app": "gen-ray-nightly"}]
    for label in labels:
        [policy] = [policy for policy in policies if policy["podSelector"]["matchLabels"] == label]
        assert policy["policyTypes"] == ["Ingress", "Egress"] and policy["egress"]
        assert all("to" in rule for rule in policy["egress"])  # a rule without it allows every destination
        names = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
        assert names in [rule.get("ports") for rule in policy["egress"]]
    used = [
        pod["metadata"]["labels"]
        for _, node in OBJECTS
        for pod in mappings(node)
        if "labels" in pod.get("metadata", {})
    ]
    assert [label for label in used if label in labels] == used


def test_mlflow_is_probed() -> None:
    [mlflow] = [container for container in containers() if container["name"] == "mlflow"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert mlflow[probe]["httpGet"] == {"path": "/health", "port": "http"}


def test_references_of_a_manifest_exist_or_their_creation_is_documented() -> None:
    names = {(node["kind"], node["metadata"].get("name")) for _, node in OBJECTS}
    text = "\n".join(file.read_text() for file in MANIFESTS)
    for below in (below for _, node in OBJECTS for below in mappings(node)):
        for field, kind in (("configMapRef", "ConfigMap"), ("persistentVolumeClaim", "PersistentVolumeClaim")):
            if field in below:
                assert (kind, below[field].get("name") or below[field].get("claimName")) in names
        for field in ("secretRef", "secretKeyRef"):
            if field in below:
                name = below[field]["name"]
                assert f"kubectl create secret generic {name} " in text or (name, "auth_token") == (
                    of_kind("RayCluster")[0]["metadata"]["name"],  # the Secret of KubeRay has the cluster's name
                    below[field]["key"],
                )


def test_pods_that_promote_or_serve_have_the_signing_key_if_it_exists() -> None:
    """The Secret is optional: pods start without it, and releases are then neither signed nor checked."""
    reference = {"name": "gen-ray-signing", "key": signing.ENVIRONMENT, "optional": True}
    found = {
        (file.stem, container["name"])
        for file, node in OBJECTS
        for below in mappings(node)
        for container in below.get("containers", [])
        if {"name": signing.ENVIRONMENT, "valueFrom": {"secretKeyRef": reference}} in container.get("env", [])
    }
    # Promotions run on heads, replicas on heads and workers. The pod of nightly-cronjob.yaml only submits a job.
    assert found == {
        ("cluster", "ray-head"), ("cluster", "ray-worker"), ("service", "ray-head"), ("service", "ray-worker"),
        ("nightly", "ray-head"),
    }  # fmt: skip


def test_services_have_the_names_that_others_use() -> None:
    [shared] = [node["data"] for node in of_kind("ConfigMap") if node["metadata"]["name"] == "gen-ray"]
    [service] = of_kind("Service")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert shared["MLFLOW_TRACKING_URI"] == f"http://{address}"
    [mlflow] = [node["data"] for node in of_kind("ConfigMap") if "MLFLOW_BACKEND_STORE_URI" in node["data"]]
    assert address in mlflow["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")  # MLflow refuses other names
    head = f"http://{of_kind('RayCluster')[0]['metadata']['name']}-head-svc:8265"
    assert [container for container in containers() if head in container.get("command", [])]


def test_the_image_is_of_this_version_and_of_one_ray() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [image] = {container["image"] for container in containers()}
    assert re.fullmatch(rf"gen-ray:{re.escape(project['version'])}@sha256:[0-9a-f]{{64}}", image)
    common = (ROOT / "configs" / "cluster" / "kuberay" / "common.yaml").read_text()
    assert image.endswith("0" * 64) and "The 64 zeros stand for the digest of your image" in common
    [named] = re.findall(r"s\|(gen-ray:\S+?)\$\|", common)  # the text that the command in the file replaces
    assert re.fullmatch(named, image)
    dockerfile = DOCKERFILE.read_text()
    [ray] = re.findall(r"^ARG RAY=(\S+)$", dockerfile, flags=re.MULTILINE)
    assert {spec["rayVersion"] for spec in clusters()} == {ray}
    [requirement] = [Requirement(line) for line in project["dependencies"] if line.startswith("ray[")]
    assert ray in requirement.specifier
    for copied in re.findall(r"^COPY --chown=\S+ (.+) \S+$", dockerfile, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in copied.split())
    assert re.findall(r"^USER (\S+)$", dockerfile, flags=re.MULTILINE) == ["ray"]


def test_ray_serve_accepts_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.schema import ServeDeploySchema

    from gen_ray.cluster.nodes.environment import SERVE
    from gen_ray.cluster.serving.args import NAME, ServingApplication
    from gen_ray.cluster.serving.ingress import api_settings

    [service] = of_kind("RayService")
    raw = yaml.safe_load(service["spec"]["serveConfigV2"])
    deployed = ServeDeploySchema.model_validate(raw)
    [application] = deployed.applications
    for given, model in (
        (raw, deployed),
        (raw["applications"][0], application),
        (raw["http_options"], deployed.http_options),
    ):
        assert given.keys() <= type(model).model_fields.keys()  # Serve ignores unknown keys
    assert application.name == NAME and ServingApplication.model_validate(application.args).models
    module, _, name = application.import_path.partition(":")
    assert callable(getattr(import_module(module), name))
    assert f"{service['metadata']['name']}-serve-svc" in application.args["hosts"]  # the name of KubeRay's Service
    monkeypatch.delenv("GEN_RAY_API_KEYS", raising=False)
    app = ServingApplication.model_validate(application.args)
    for keys, refusal in ((None, "require_keys"), ("", "is set but empty"), ("anna:" + "k" * 32, "")):
        if keys is not None:
            monkeypatch.setenv("GEN_RAY_API_KEYS", keys)
        with pytest.raises(UserError, match=refusal) if refusal else nullcontext():
            assert [key.name for key in api_settings(app, deployed.http_options.host).keys] == ["anna"]
    for below in (below for below in mappings(service) if "containers" in below):
        env = {entry["name"]: entry for entry in below["containers"][0]["env"]}
        assert {name: entry["value"] for name, entry in env.items() if "value" in entry} == SERVE
        assert "optional" not in env["GEN_RAY_API_KEYS"]["valueFrom"]["secretKeyRef"]  # keys are always required


# --- gen-ray commands in all files


def spoken() -> Iterator[tuple[str, list[str]]]:
    """Yield file and words of each gen-ray command in shell code, comments, lists and entrypoints of Ray jobs."""
    for file in FILES:
        for line in re.findall(r"(?<![\w./-])gen-ray ((?:[a-z]|--)[^\n'`>&;|#)]*)", file.read_text()):
            yield file.name, shlex.split(line)
    for file, node in OBJECTS:
        for below in mappings(node):
            if below.get("command", [""])[0] == "gen-ray":
                yield file.name, [*below["command"][1:], *below.get("args", [])]
            if "entrypoint" in below:
                python, dash_m, module, *rest = shlex.split(below["entrypoint"])
                assert (python, dash_m) == ("python", "-m") and module.startswith("pipelines.")
                yield file.name, [module.removeprefix("pipelines."), *rest]


COMMANDS = sorted({(name, *words) for name, words in spoken()})


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """Return a function that parses the words of a command as gen-ray does, without executing it."""
    apps: list[typer.Typer] = []
    monkeypatch.setattr(cli.terminal, "main", apps.append)
    cli.main()
    app = typer.main.get_command(apps[0])

    def parsed(words: list[str]) -> None:
        verb = app
        while hasattr(verb, "commands"):
            word, *words = words
            assert word in verb.commands, f"gen-ray {word}: known are {', '.join(verb.commands)}"
            verb = verb.commands[word]
        verb.make_context(word, list(words))
        inner = next((i for i, it in enumerate(words) if it in app.commands), len(words))
        own = words[: inner if word == "submit" else len(words)]
        options = {option for parameter in verb.params for option in parameter.opts}
        own = own[: own.index("--")] if "--" in own else own
        assert {
            it.partition("=")[0] for it in own if it.startswith("-")
        } <= options  # options that are passed on are not checked
        if word == "submit":
            parsed(words[inner:])

    return parsed


def test_every_kind_of_command_was_found() -> None:
    verbs = {" ".join(command[1:3]) for command in COMMANDS}
    assert {"start head", "start worker", "start mlflow", "submit train", "submit --address", "submit serve"} <= verbs
    assert {command[1] for command in COMMANDS} >= {"train", "sweep"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_parses(command: tuple[str, ...], parse: Callable[[list[str]], None]) -> None:
    parse(list(command[1:]))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_passes_its_own_checks(command: tuple[str, ...], tmp_path: Path) -> None:
    words = [word.replace(INSTALLED, str(ROOT)).replace("$RAY_HEAD_IP", "192.0.2.1") for word in command[1:]]
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t" * 64)  # as the launcher or KubeRay writes it
    carry_out(words, {"RAY_AUTH_MODE": "token"}, tmp_path)
    if inner := job(words):
        carry_out(inner, {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": "192.0.2.1:6379"}, tmp_path)


@pytest.mark.parametrize("command", [it for it in COMMANDS if {"train", "sweep"} & set(it)], ids=" ".join)
def test_every_named_config_describes_a_run(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = [word.removeprefix(f"{INSTALLED}/") for word in command]
    config, *changes = [word for word in words if re.match(r"configs/|[a-z_.]+=", word)]
    read = sweeps.load if "sweep" in words else load
    assert read(Path(config), changes)


# --- secrets


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_file_holds_a_secret(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|kind: Secret\b|://[^/\s:@]+:[^/\s@]+@", text)
    assert not re.search(
        r"(?<![\w/])(?<!sha256:)(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{32,}={0,2}(?![\w/])", text
    )  # hex or base64 of 24 bytes
    for node in yaml.safe_load_all(text) if file.suffix == ".yaml" else ():
        for below in mappings(node):
            if re.search(r"KEY|TOKEN|SECRET|PASSWORD", str(below.get("name", ""))) and "value" in below:
                pytest.fail(f"{below['name']} is written out")


# ---- packages of the image ------------------------------------------------------------------------------------------

LOCK = ROOT / "configs" / "cluster" / "requirements.txt"


def pins() -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of every package of the lock file."""
    found = re.findall(r"^([\w.-]+)==(\S+) \\\n((?:    --hash=\S+(?: \\)?\n)+)", LOCK.read_text(), re.MULTILINE)
    return {name: (version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", hashes)) for name, version, hashes in found}


def test_the_lock_pins_all_requirements_by_hash_and_names_no_registry() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(word for name in ("s3", "postgres") for word in project["optional-dependencies"][name]),
    ]
    locked, lines = pins(), LOCK.read_text().splitlines()
    assert len(locked) == sum(re.match(r"[\w.-]+==", line) is not None for line in lines) > 100
    assert all(hashes for _, hashes in locked.values())
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(locked[requirement.name.lower()][0]), requirement
    assert "://" not in LOCK.read_text() and not [line for line in lines if line.startswith("--")]


REPAIRED = {
    "ray": "2.54",  # CVE-2026-27482: a page of another site could delete jobs
    "torch": "2.10",  # CVE-2026-24747: weights_only ran code of a checkpoint
    "mlflow": "3.11",  # CVE-2026-2614, CVE-2026-2651, CVE-2026-4137: files read and overwritten, open temporary folders
    "filelock": "3.20.3",  # CVE-2026-22701: a link in the place of a lock
    "pillow": "12.1.1",  # CVE-2026-25990: a PSD file writes out of bounds
    "jinja2": "3.1.6",  # CVE-2025-27516: out of the sandbox
    "requests": "2.32.4",  # CVE-2024-47081: .netrc's credentials to another host
}
"""The first version of each package without the vulnerabilities that are known of it."""


@pytest.mark.parametrize("name", REPAIRED)
def test_no_version_with_a_known_vulnerability_is_allowed(name: str) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    [requirement] = [found for found in map(Requirement, lines) if found.name == name]
    lowest = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
    assert max(lowest) >= Version(REPAIRED[name])


@pytest.mark.parametrize("extra", ["s3", "postgres"])
def test_every_required_extra_exists(extra: str) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, lines):
        with suppress(PackageNotFoundError):
            assert requirement.extras <= {*(metadata(requirement.name).get_all("Provides-Extra") or [])}, requirement


def test_the_image_is_built_from_the_lock() -> None:
    text = DOCKERFILE.read_text()
    [ray] = re.findall(r"^ARG RAY=(\S+)$", text, re.MULTILINE)
    assert pins()["ray"][0] == ray
    assert "--require-hashes -r configs/cluster/requirements.txt" in text and "--no-deps --no-build-isolation" in text
