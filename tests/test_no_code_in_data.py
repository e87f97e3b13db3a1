"""Data cannot run code: the sources contain no call that would execute data."""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load"}
FORBIDDEN |= {"yaml.unsafe_load", "yaml.full_load", "marshal.load", "marshal.loads", "shelve.open"}
SAFE_LOADER = "_Loader"
"""yaml12's, which constructs plain values only."""
FILES = sorted([*(ROOT / "gen_ray").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(source: str) -> Iterator[str]:
    """Yield the lines of calls that could execute data."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, words = dotted(node.func), {word.arg: word.value for word in node.keywords}
        weights_only = words.get("weights_only")
        bad = (
            name in FORBIDDEN
            or (name == "torch.load" and not (isinstance(weights_only, ast.Constant) and weights_only.value is True))
            or (name == "yaml.load" and [dotted(arg) for arg in node.args[1:]] != [SAFE_LOADER])
            or ("allow_pickle" in words and getattr(words["allow_pickle"], "value", True) is not False)
            or getattr(words.get("shell"), "value", False) is True
        )
        if bad:
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_source_lets_no_data_run_code(file) -> None:
    assert list(faults(file.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(x)", "pickle.loads(x)", "torch.load(f)", "torch.load(f, weights_only=False)", "yaml.load(x)",
        "yaml.load(x, yaml.Loader)", "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)",
    ],
)  # fmt: skip
def test_such_calls_are_found(source: str) -> None:
    assert list(faults(source))


def test_the_yaml_loader_is_a_safe_one() -> None:
    from gen_ray.configuration import yaml12

    tags = {tag.rpartition(":")[2] for tag in yaml12._Loader.yaml_constructors if tag}
    assert tags == {"str", "int", "float", "bool", "null", "seq", "map"}
    assert not yaml12._Loader.yaml_multi_constructors
