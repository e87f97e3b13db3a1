"""gen-ray demo: small models of the embedded digits, side by side."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines import terminal

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"


def demo(
    storage: Annotated[Path, typer.Option(help="Where runs and pictures go.")] = Path("gen_ray_runs"),
    out: Annotated[Path, typer.Option(help="The picture.")] = Path("demo.png"),
) -> None:
    """Train the models of configs/demo on 8×8 digits through Ray, evaluate, compare and draw: minutes."""
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
        f"samples side by side: {out}\nnext:\n"
        f"  gen-ray sample {first.run_id} --storage {storage} --out samples.png\n"
        f"  gen-ray train {CONFIGS.parent}/fashion-ddpm.yaml data.root=FOLDER_OF_FashionMNIST\n"
        f"  gen-ray compare demo --storage {storage}\n"
        f"  {terminal.ui_command(store)}"
    )


def _draw(outcomes: dict, out: Path) -> None:
    import torch
    from PIL import Image

    from gen_ray.engine import artifact, evaluate, plots

    pictures = {}
    for name, done in outcomes.items():
        model = artifact.load(done.artifact)
        samples, _ = evaluate.sample(model, 64, device=torch.device("cpu"))
        title = f"{name}: {done.metrics['eval/bits_per_dim']:.2f} bits/dim"
        pictures[title] = plots.grid(samples, levels=model.spec.levels)
    Image.fromarray(plots.panel(pictures)).save(out)


if __name__ == "__main__":
    terminal.main(demo)
