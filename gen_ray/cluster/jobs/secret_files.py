"""Check of a working directory for files that must not be uploaded: secrets and links that lead out of the folder."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from gen_ray.errors import UserError, argument
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
"""Folders of a home directory; every file in them counts as a secret."""
EXAMPLES = ("*.example", "*.sample", "*.template", "*.pub")
"""Patterns of names that are not secrets even if they match NAMES, such as .env.example."""
COPIES = ("~", ".bak", ".old", ".orig", ".save", ".swp")
"""Suffixes of copies made by editors and users: server.key.bak is as secret as server.key."""
PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
"""First line of a private key, also indented in YAML or inside a JSON string."""
MARK = b"PRIVATE KEY"
MARKS = (MARK, MARK.decode().encode("utf-16-le")[:-1])
"""Bytes that every file with a key contains, in UTF-8 and in both byte orders of UTF-16 (written by PowerShell)."""
BLOCK_BYTES, AROUND_BYTES = 2**20, 256


def check(folder: Path, files: Iterable[Path], included: Collection[str] = ()) -> None:
    """Raise UserError, with the file's name, if a file to upload is a secret or lies outside the folder.

    files are paths below folder. included are patterns of relative paths that may be uploaded nevertheless.
    """
    absolute = folder.absolute()
    uploaded = {str(file.relative_to(absolute)): file for file in files}
    for pattern in included:
        if not any(_matches(name, pattern) for name in uploaded):
            raise UserError(f"matches none of the files to upload from {folder}", field="include", value=pattern)
    for name, file in sorted(uploaded.items()):
        fault = _fault(name, file, absolute)
        if fault and not any(_matches(name, pattern) for pattern in included):
            raise UserError(
                f"{folder / name}: {fault} and would be uploaded; name it in .gitignore or .rayignore, or upload it by "
                f"{argument('include', repr(name))} of gen-ray submit"
            )


def _fault(name: str, file: Path, absolute: Path) -> str:
    """Return the reason why a file must not be uploaded, or ""."""
    real = file.resolve()
    if not real.is_relative_to(absolute.resolve()):
        return f"leads out of the folder, to {real},"
    if _is_secret(name) or real == ray_token.file().resolve():
        return "looks like a secret by its name"
    try:
        return "holds a private key" if _has_private_key(file) else ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)  # equality first: a name may contain brackets


def _has_private_key(file: Path) -> bool:
    """Return whether a file contains the first line of a private key. Raise OSError."""
    before = b""
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            part = before + block
            # Searching for the mark is fast. Few files contain it and need the pattern and a copy without null bytes.
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
    """Return a name without the suffixes of copies."""
    for end in COPIES:
        if name.endswith(end):
            return _original(name.removesuffix(end))
    return name
