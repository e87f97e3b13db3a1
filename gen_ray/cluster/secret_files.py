"""Files of a working directory that must not be uploaded: secrets, and links that lead out of the folder."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch
from pathlib import Path

from gen_ray import token
from gen_ray.errors import UserError

NAMES = (
    *(".env", ".env.*", "*.env", ".envrc", ".gen_ray_secrets"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
    *(".netrc", "_netrc", ".pgpass", ".git-credentials", ".htpasswd", ".npmrc", ".pypirc"),
    *("credentials", "credentials.*", "*credentials.json", "service-account*.json", "kubeconfig"),
    *("secret", "secrets", "*secret.*", "*secrets.*", "token", "*.token", "auth_token", "token.txt", "token.json"),
    *("passwords.txt", "api_keys.*", "apikeys.*"),
)
"""Patterns of names, compared in lower case. The repository's .gitignore has the same list."""
FOLDERS = (".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", ".ray")
"""Folders of a home; every file in them is taken for a secret."""
EXAMPLES = ("*.example", "*.sample", "*.template", "*.py", "*.pub")
"""Patterns of names that are not secrets, although one of NAMES matches: gen_ray/token.py, .env.example."""
PRIVATE_KEY = re.compile(rb"^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----", re.MULTILINE)
HEAD_BYTES = 4096


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
    if _is_secret(name) or real == token.file().resolve():
        return "looks like a secret by its name"
    try:
        with file.open("rb") as stream:
            return "holds a private key" if PRIVATE_KEY.search(stream.read(HEAD_BYTES)) else ""
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch(name, pattern)  # a name may have brackets


def _is_secret(name: str) -> bool:
    path = Path(name.lower())
    if any(fnmatch(path.name, pattern) for pattern in EXAMPLES):
        return False
    return bool({*path.parts[:-1]} & {*FOLDERS}) or any(fnmatch(path.name, pattern) for pattern in NAMES)
