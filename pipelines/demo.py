"""gen-ray demo: every family on the embedded digits, side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines import instances, terminal

if TYPE_CHECKING:
    import numpy as np

    from gen_ray.engine.artifact import Model

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"
COLUMNS = 8


def demo(
    storage: Annotated[Path, typer.Option(help="Where runs and pictures go.")] = Path("gen_ray_runs"),
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("demo.png"),
) -> None:
    """Train a small model of every family on 8×8 digits through Ray, evaluate, compare and draw: minutes."""
    from gen_ray.cluster.connect import connected
    from gen_ray.cluster.train import train
    from gen_ray.experiment import Scaling, load
    from gen_ray.tracking import Store

    files = sorted(CONFIGS.glob("*.yaml"))
    outcomes = {}
    with connected(Scaling()):
        for file in files:
            experiment = load(file, [f"storage.root={storage}"])
            with terminal.Progress(experiment.name) as watch:
                outcomes[experiment.name] = train(experiment, watch=watch)
            typer.echo(f"{experiment.name}: {outcomes[experiment.name].metrics['eval/bits_per_dim']:.3f} bits/dim")
    _draw(outcomes, out)
    store = Store.of(None, experiment.tracking.experiment, storage.absolute())
    terminal.show_runs(store, "eval/bits_per_dim", [done.run_id for done in outcomes.values()])
    first = next(iter(outcomes.values()))
    typer.echo(
        f"samples, and test digits completed from their upper halves: {out}\nnext:\n"
        f"  gen-ray sample {first.run_id} --storage {storage} --out samples.png\n"
        f"  gen-ray train {CONFIGS.parent}/fashion-ddpm.yaml data.root=FOLDER_OF_FashionMNIST\n"
        f"  gen-ray compare demo --storage {storage}\n"
        f"  {terminal.ui_command(store)}"
    )


def _draw(outcomes: dict, out: Path) -> None:
    from gen_ray.engine import artifact, plots

    pictures = {
        f"{name}: {done.metrics['eval/bits_per_dim']:.2f} bits/dim": _page(artifact.load(done.artifact))
        for name, done in outcomes.items()
    }
    plots.write(out, plots.panel(pictures))


def _page(model: "Model") -> "np.ndarray":
    """Return 64 samples, and below them test images, their upper halves, and three ways to complete each."""
    import torch

    from gen_ray.engine import evaluate, plots
    from gen_ray.engine.impute import complete

    cpu, levels = torch.device("cpu"), model.spec.levels
    samples, _ = evaluate.sample(model, 64, device=cpu)
    own = instances.Asked(None, None, None, "test", COLUMNS, False)
    x, _ = instances.gather(model, own, model.experiment.storage.root)
    mask = torch.zeros_like(x, dtype=torch.bool)
    mask[:, :, : x.shape[2] // 2] = True
    made = complete(model, x, mask, 3, device=cpu)
    rows = [plots.rgb(x, levels=levels), plots.holed(x, mask, levels=levels)]
    rows += [plots.rgb(made.samples[:, j], levels=levels) for j in range(made.k)]
    return plots.stacked([plots.grid(samples, levels=levels), plots.grid(torch.cat(rows), columns=COLUMNS)])


if __name__ == "__main__":
    terminal.main(demo)
