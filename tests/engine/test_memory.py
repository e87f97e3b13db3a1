"""Memory: the available size, and results that do not fit."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from gen_ray.engine.inference import generate, latent, memory
from gen_ray.engine.inference.batcher import measure
from gen_ray.engine.inference.batcher.errors import memory_error
from gen_ray.engine.inference.impute import UNCERTAINTY, complete
from gen_ray.engine.plots import grids
from gen_ray.errors import UserError
from tests.engine.tiny_models import CPU, images, model

GRID = """
import sys, torch
from gen_ray.engine.plots import grids
from pathlib import Path

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

images = torch.zeros((int(sys.argv[1]), 1, 28, 28), dtype=torch.uint8)
grids.write(Path(sys.argv[2]), grids.grid(images[:10]))
before = peak()
grids.write(Path(sys.argv[2]), grids.grid(images))
print(1024 * (peak() - before))
"""


def test_a_container_s_free_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = (tmp_path / "absent", "memory.max", "memory.current", "inactive_file")
    monkeypatch.setattr(memory, "CGROUPS", ((tmp_path, "memory.max", "memory.current", "inactive_file"), absent))
    free = psutil.virtual_memory().available
    assert memory.available() > free / 2
    limit = tmp_path / "memory.max"
    limit.write_text("max\n")
    assert memory.available() > free / 2
    limit.write_text("1000\n")
    assert memory.available() == 1000
    (tmp_path / "memory.current").write_text("900\n")
    assert memory.available() == 100, "what the container uses is not free"
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 700\nactive_file 5\n")
    assert memory.available() == 800, "pages of files that are not in use are freed first"
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.available() == 0
    with pytest.raises(UserError, match=r"a thing: needs 2\.0 GiB of memory, 0\.0 GiB are available; ask for less"):
        memory.require(2 * memory.GIB, "a thing", "ask for less")


@pytest.mark.parametrize("part", memory.OTHER_ALLOCATORS)
def test_an_allocation_error_of_a_library_counts_as_out_of_memory(part: str) -> None:
    """Measurement stops at the largest batch that fits; a request that does not fit is refused in one line."""
    error = RuntimeError(f"{part}\nException raised from …")
    small = model("ddpm")
    forward = small.net.forward

    def limited(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise error
        return forward(x, t)

    small.net.forward = limited
    assert measure(small, CPU).rows == (1, 2)
    refused = memory_error(error, CPU)
    assert isinstance(refused, MemoryError) and "\n" not in str(refused)


def test_an_error_of_the_cpu_allocator_counts_as_out_of_memory_and_one_of_the_net_does_not() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(10**14)
    assert memory.is_out_of_memory(error.value)
    assert not memory.is_out_of_memory(RuntimeError("shapes differ")) and not memory.is_out_of_memory(KeyError("a"))
    broken = model("ddpm")

    def fail(*_: object) -> None:
        raise RuntimeError("shapes differ")

    broken.net.forward = fail
    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(broken, CPU)


def test_samples_are_refused_after_the_first_batch_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    now, walks = model("vae"), []
    walk = generate.run_chain
    monkeypatch.setattr(generate, "run_chain", lambda *args: walks.append(1) or walk(*args))
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    chain = now.family.chain("mean")
    with pytest.raises(UserError, match=r"1,000 samples: needs"):
        generate.generate(now.net, chain, 1000, seed=0, device=CPU)
    assert len(walks) == 1
    assert len(generate.generate(now.net, chain, 100, seed=0, device=CPU)) == 100


def test_completions_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    now, x = model("vae"), images(1)
    mask = torch.zeros_like(x, dtype=torch.bool)
    monkeypatch.setattr(memory, "available", lambda: 10_000)
    with pytest.raises(UserError, match=r"1,000 completions: needs"):
        complete(now, x, mask, 1000, device=CPU)


def test_the_memory_of_a_grid_is_bounded_by_its_estimate(tmp_path: Path) -> None:
    n = 4000
    words = [sys.executable, "-c", GRID, str(n), str(tmp_path / "grid.png")]
    taken = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert 0.4 < taken / grids.grid_bytes(n, (1, 28, 28)) < 1


def test_many_instances_are_encoded_and_refined_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, x = model("vae"), images(10)
    whole, ways = latent.encode(now, x, device=CPU), latent.interpolate(now, x, steps=3, device=CPU)
    better = latent.refine(now, x, steps=3, device=CPU)
    monkeypatch.setattr(latent, "BATCH_ROWS", 3)
    monkeypatch.setattr(latent, "REFINED_AT_ONCE", 5)
    torch.testing.assert_close(latent.encode(now, x, device=CPU), whole)
    assert (latent.interpolate(now, x, steps=3, device=CPU) - ways).abs().max() <= 1
    parts = latent.refine(now, x, steps=3, device=CPU)
    assert parts.posterior.mu.shape == better.posterior.mu.shape and parts.gap_nats.shape == (10,)
    torch.testing.assert_close(parts.posterior.mu, better.posterior.mu, rtol=0, atol=0.2)  # different random draws


def test_the_entropy_of_tokens_is_that_of_their_frequencies() -> None:
    """The time is proportional to the number of completions; with pairs of them, 10,000 took minutes."""
    samples = torch.tensor([[[0, 5], [0, 5], [1, 5], [2, 5]]])
    expected = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64)
    entropy = UNCERTAINTY["tokens"](samples, 7)
    assert entropy[0, 1] == 0 and torch.isclose(entropy[0, 0], -(expected * expected.log()).sum())
