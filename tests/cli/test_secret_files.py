"""Files that gen-ray submit does not upload: secrets, and files outside the folder."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gen_ray.cluster.jobs import jobs, package, secret_files
from gen_ray.errors import RunError, UserError
from gen_ray.host import ray_token
from tests.conftest import ROOT, CommandResult

GenRay = Callable[..., CommandResult]
UNREACHABLE = "http://127.0.0.1:9"
HEADER = f"-----BEGIN OPENSSH {'PRIVATE'} KEY-----"  # this file itself is uploaded


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a configuration in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("x")
    return tmp_path


SECRETS = (
    *(".env", ".env.local", "deploy/prod.env", "server.pem", "a/tls.KEY", "id_ed25519", ".ssh/config", ".aws/config"),
    *(".netrc", "credentials.json", "gcp-credentials.json", "secrets.yaml", "my_secrets.toml", "token", "auth_token"),
    *(".gen_ray_secrets", "kubeconfig", ".git-credentials", "sub/[x].pem"),
)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_refused_by_name_and_uploaded_only_where_it_is_included(
    work: Path, gen_ray: GenRay, name: str
) -> None:
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    (work / name).write_text("x")
    result = gen_ray("submit", "--address", UNREACHABLE, "train", "run.yaml")
    assert result.code == 2 and f"{name}: looks like a secret by its name" in result.fault
    result = gen_ray("submit", "--address", UNREACHABLE, "--include", name, "train", "run.yaml")
    assert result.code == 1 and "no cluster's dashboard answers" in result.fault  # the next step after the check
    (work / ".rayignore").write_text(f"/{name}\n".replace("[", "\\["))
    assert gen_ray("submit", "--address", UNREACHABLE, "train", "run.yaml").code == 1


def test_a_private_key_is_found_by_its_content(work: Path, gen_ray: GenRay) -> None:
    (work / "notes.md").write_text(f"my key:\n{HEADER}\nabc\n")
    result = gen_ray("submit", "--address", UNREACHABLE, "train", "run.yaml")
    assert result.code == 2 and "notes.md: holds a private key" in result.fault


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"type": "service_account", "private_key": f"{HEADER}\nabc\n"}).encode(),
        f"tls:\n  key: |\n    {HEADER}\n    abc\n".encode(),
        f"\ufeff{HEADER}\n".encode(),
        f"a\r{HEADER}\r".encode(),
        HEADER.encode("utf-16-le"),
        HEADER.encode("utf-16-be"),
        HEADER.replace("OPENSSH", "PGP").replace("KEY", "KEY BLOCK").encode(),
        b"x" * (secret_files.BLOCK_BYTES - 20) + HEADER.encode(),
    ],
    ids=["json", "indented", "byte order mark", "carriage return", "UTF-16 LE", "UTF-16 BE", "PGP", "far inside"],
)
def test_a_private_key_is_found_anywhere_in_a_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.dat").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.dat: holds a private key"):
        secret_files.check(tmp_path, [tmp_path / "a.dat"])
    (tmp_path / "a.dat").write_bytes(content.replace(b"KEY", b"key").replace(b"K\0E\0Y", b"k\0e\0y"))
    secret_files.check(tmp_path, [tmp_path / "a.dat"])


@pytest.mark.parametrize(
    "name",
    [
        *("service_account.json", "my-service-account-1.json", "client_secret_123.apps.googleusercontent.com.json"),
        *("id_rsa.bak", "deploy_rsa", "server.key.old~", ".env~", ".env_prod", ".netrc.save", "secrets.py"),
        *("api_keys.py", "rootkey.csv", "x_accessKeys.csv", "secrets-prod.yaml", "kaggle.json", "prod.tfvars"),
    ],
)
def test_a_secret_is_recognised_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="looks like a secret by its name"):
        secret_files.check(tmp_path, [tmp_path / name])


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_to_a_file_outside_the_folder_is_refused(
    work: Path, gen_ray: GenRay, tmp_path_factory: pytest.TempPathFactory, link: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "diary.txt").write_text("x")
    (work / "link").symlink_to(outside / "diary.txt" if link == "file" else outside)
    (work / "inside").symlink_to(work / "run.yaml")
    result = gen_ray("submit", "--address", UNREACHABLE, "train", "run.yaml")
    assert result.code == 2 and f"leads out of the folder, to {outside / 'diary.txt'}," in result.fault
    assert gen_ray("submit", "--address", UNREACHABLE, "--include", "link*", "train", "run.yaml").code == 1


@pytest.mark.parametrize(
    "name", ["token.py", ".env.example", "id_ed25519.pub", "keys.yaml", "tokens.txt", "monkey.txt", "secret_files.py"]
)
def test_a_file_that_is_not_a_secret_is_uploaded(work: Path, name: str) -> None:
    (work / name).write_text("x")
    secret_files.check(work, package.contents(work))


def test_the_token_of_ray_is_a_secret_under_any_name(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "harmless.txt").write_text("t" * 64)
    monkeypatch.setenv(ray_token.PATH, str(work / "harmless.txt"))
    with pytest.raises(UserError, match=r"harmless\.txt: looks like a secret"):
        secret_files.check(work, package.contents(work))


def test_a_misspelt_include_is_refused(work: Path, gen_ray: GenRay) -> None:
    result = gen_ray("submit", "--address", UNREACHABLE, "--include", ".evn", "train", "run.yaml")
    assert result.code == 2 and "--include .evn: matches none of the files" in result.fault


def test_the_repository_ignores_what_looks_like_a_secret() -> None:
    lines = (ROOT / ".gitignore").read_text().splitlines()
    copies = (f"*{end}" for end in secret_files.COPIES)
    assert {*secret_files.NAMES, *copies, *(f"{name}/" for name in secret_files.FOLDERS)} <= set(lines)
    ours = [ROOT / file for file in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()]
    secret_files.check(ROOT, [file for file in ours if file.is_file()])


def test_a_schedule_of_jobs_with_a_secret_is_refused(work: Path, gen_ray: GenRay) -> None:
    """Checked when the schedule is added, and again when its folder contains a secret later."""
    (work / "token").write_text("x")
    plan = ROOT / "configs" / "sweeps" / "digits-vae-latent-dims.yaml"
    result = gen_ray(
        "schedule", "add", plan, "--cron", "0 2 * * *", "--address", UNREACHABLE, f"settings.storage.root={work}"
    )
    assert result.code == 2 and "token: looks like a secret" in result.fault
    with pytest.raises(RunError, match="token: looks like a secret"):
        jobs.Jobs(UNREACHABLE).launch("night", ["-m", "pipelines.sweep"], work)
