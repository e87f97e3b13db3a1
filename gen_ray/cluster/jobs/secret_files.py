"""Files of a working directory that must not be uploaded: secrets, and links that lead out of the folder."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from gen_ray.errors import UserError
from gen_ray.host import ray_token

NAMES = (
    *(".env*", "*.env", ".gen_ray_secrets"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.ovpn"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*_rsa", "*_ed25519"),
    *(".netrc", "_netrc", ".pgpass", ".my.cnf", ".git-credentials", ".htpasswd", ".npmrc", ".pypirc", ".dockercfg"),
    *("credentials", "credentials.*", "*credentials.json", "*credentials.csv", "*service*account*.json", "kubeconfig"),
    *(".boto", ".s3cfg", "*accesskeys*", "rootkey*", "kaggle.json", "*.tfstate", "*.tfvars", ".vault-token"),
    *("secret", "secrets", "*secret.*", "*secrets.*", "secrets[-_]*", "*client?secret*"),
    *("token", "*.token", "auth_token", "access_token*", "hf_token*", "token.txt", "token.json"),
    *("password.txt", "passwords.*", "api_key*", "api-key*", "apikey*"),
)
"""Patterns of names, compared in lower case. The repository's .gitignore has the same list."""
FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", ".ray")
"""Folders of a home; every file in them is taken for a secret."""
EXAMPLES = ("*.example", "*.sample", "*.template", "*.pub")
"""Patterns of names that are not secrets, although one of NAMES matches: .env.example."""
COPIES = ("~", ".bak", ".old", ".orig", ".save", ".swp")
"""How the names of copies end that editors and users make: server.key.bak is as secret as server.key."""
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
"""The first line of a key, wherever it stands: also indented in YAML, or within a string of JSON."""
MARK = b"PRIVATE KEY"
MARKS = (MARK, MARK.decode().encode("utf-16-le")[:-1])
"""What files with a key contain, in UTF-8 and in both byte orders of UTF-16 (which PowerShell writes)."""
BLOCK_BYTES, AROUND_BYTES = 2**20, 256


def check(folder: Path, files: Iterable[Path], included: Collection[str] = ()) -> None:
    """Raise UserError, naming the file, where one of the files to upload is a secret or lies outside the folder.

    The files are paths below folder; included are patterns of relative paths that are uploaded nevertheless.
    """
    whole = folder.absolute()
    uploaded = {str(file.relative_to(whole)): file for file in files}
    for pattern in included:
        if not any(_matches(name, pattern) for name in uploaded):
            raise UserError(f"--include {pattern}: matches none of the files that {folder} has for an upload")
    for name, file in sorted(uploaded.items()):
        fault = _fault(name, file, whole)
        if fault and not any(_matches(name, pattern) for pattern in included):
            raise UserError(
                f"{folder / name}: {fault} and would be uploaded; name it in .gitignore or .rayignore, or upload it by "
                f"gen-ray submit --include '{name}'"
            )


def _fault(name: str, file: Path, whole: Path) -> str:
    """Return why a file must not be uploaded, nothing where it may."""
    real = file.resolve()
    if not real.is_relative_to(whole.resolve()):
        return f"leads out of the folder, to {real},"
    if _is_secret(name) or real == ray_token.file().resolve():
        return "looks like a secret by its name"
    try:
        return "holds a private key" if _has_private_key(file) else ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)  # a name may have brackets


def _has_private_key(file: Path) -> bool:
    """Return whether a file has the first line of a private key anywhere. Raise OSError."""
    before = b""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            part = before + block
            # The search for a mark is quick. Few files have one and need the pattern and a copy without null bytes.
            if any(mark in part for mark in MARKS) and PRIVATE_KEY.search(part.replace(b"\0", b"")):
                return True
            before = part[-AROUND_BYTES:]
    return False


def _is_secret(name: str) -> bool:
    path = Path(name.lower())
    base = _original(path.name)
    if any(fnmatch(base, pattern) for pattern in EXAMPLES):
        return False
    return bool({*path.parts[:-1]} & {*FOLDERS}) or any(fnmatch(base, pattern) for pattern in NAMES)


def _original(name: str) -> str:
    """Return the name of the file that a name is of a copy of, or else the name itself."""
    for end in COPIES:
        if name.endswith(end):
            return _original(name.removesuffix(end))
    return name
