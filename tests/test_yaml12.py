"""Values of configurations: files are YAML 1.2, and command-line words are text by default."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from gen_ray.configuration import yaml12
from gen_ray.errors import UserError
from gen_ray.experiment import load

NORWAY: list[tuple[str, Any]] = [
    ("no", "no"), ("on", "on"), ("y", "y"), ("010", 10), ("0o10", 8), ("0x1f", 31), ("1:30", "1:30"), ("1e3", 1000.0),
    ("1e-3", 0.001), ("2026-01-31", "2026-01-31"), ("1_000", "1_000"), ("true", True), ("null", None), ("-5", -5),
    ("=", "="), ("1.5.6", "1.5.6"), (".5", 0.5),
]  # fmt: skip


@pytest.mark.parametrize(("text", "meant"), NORWAY, ids=[text for text, _ in NORWAY])
def test_yaml_is_of_version_1_2_in_files_and_on_the_command_line(tmp_path: Path, text: str, meant: Any) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"a: {text}\n")
    for found in (yaml12.read(file)["a"], yaml12.value(text)):
        assert found == meant and type(found) is type(meant)


TEXTS = [
    "/a b/[c]/d", "[c]/d", "{c}/d", "file:///a/b", "a #b", "#a", "a: b", "a:", "a=b", "=", " a ", "*a", "&a b", "!a b",
    "!!float x", "| a", "> a", "- a", "? a", "--- a", "---", "...", "-", "~", "~/a", "%a", "@a", "`a`", "'a' b",
    '"a" b', "[a] #b", "a\nb", "a\tb", "$HOME", "a\\b", "ä", "\U0001f600", "(a)", "a,b", "[a", "{a: 1, a: 2}", "'", '"',
    "image_folder:/a b #1", "parquet:/data/*.parquet", "1" * 5000 + "x",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:20]))
def test_text_is_unchanged_whatever_its_meaning_in_yaml(tmp_path: Path, text: str) -> None:
    assert yaml12.value(text) == text
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nfamily: vae\n")
    assert load(file, [f"data.source={text}"]).data.source == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_any_word_is_a_value_or_itself_and_never_an_error(text: str) -> None:
    found = yaml12.value(text)
    assert not isinstance(found, str) or found == text or text.strip()[0] in "'\""


@given(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(
            ["1e3", "0o7", "no", "010", "1:30", "~", "1_000", "2026-01-01", ".5", "+1", "1e-5", "true", ""]
        ),
        st.integers(),
        st.floats(allow_nan=False),
        st.none(),
        st.booleans(),
        st.lists(st.integers(), max_size=3),
    )
)
@example("0[")
def test_written_values_are_read_back_as_yaml_1_1_and_1_2(value: Any) -> None:
    for text in (yaml12.dump({"a": value}), yaml12.flow({"a": value})):
        assert yaml.safe_load(text) == {"a": value} and yaml12.value("{a: " + yaml12.flow(value) + "}") == {"a": value}
    assert yaml12.value(yaml12.flow(value)) == value
    if isinstance(value, str):
        assert yaml12.value(yaml12.quoted(value)) == value


@pytest.mark.parametrize(
    "value", ["!!float x", "!!int ''", "!!bool [x]", "!!null x", "!!timestamp x", "1" * 5000, "!x y", '"\\udcff"']
)
def test_a_value_that_cannot_be_read_is_reported_with_file_and_line(tmp_path: Path, value: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(f"name: a\nfamily: {{latent_dim: {value}}}\n")
    with pytest.raises(UserError, match=r"a\.yaml:2: ") as caught:
        load(file)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
