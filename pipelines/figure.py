"""gen-ray figure: train and draw a figure of the literature."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gen_ray.metrics import BITS_PER_DIM
from pipelines import instances, terminal
from pipelines.progress import VerbProgress

app = terminal.new_group()
SAMPLES = 100


@app.command("latent-dims")
def latent_dims(
    config: Annotated[Path, typer.Argument(help="The experiment's YAML file; its family must have family.latent_dim.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings as key=value, e.g. training.epochs=10.")
    ] = None,
    dims: Annotated[str, typer.Option(help="Latent dimensions, e.g. 2,5,10,20.")] = "2,5,10,20",
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("latent-dims.png"),
) -> None:
    """Train the model once per latent dimension and show the samples side by side (Kingma & Welling, fig. 5)."""
    terminal.one_of("--out must end in", out.suffix, (".png",))
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.cluster.training.train import train
    from gen_ray.engine.evaluation import evaluate
    from gen_ray.engine.inference import artifact
    from gen_ray.engine.plots import grids
    from gen_ray.experiment import load

    numbers = _numbers(dims)
    base = load(config, overrides or [])
    experiments = {
        dim: load(config, [*(overrides or []), f"family.latent_dim={dim}", f"name={base.name}-z{dim}"])
        for dim in numbers
    }
    pictures: dict[str, Any] = {}
    with connected(base.scaling):
        for dim, experiment in experiments.items():
            with VerbProgress(experiment.name) as watch:
                done = train(experiment, watch=watch)
            bits = done.metrics[BITS_PER_DIM.name]
            typer.echo(f"{done.run_id}: {bits:.4f} bits/dim")
            model = artifact.load(done.artifact, device=instances.device())
            samples, _ = evaluate.sample(model, SAMPLES, device=instances.device())
            title = f"({'abcdefghijklmnopqrstuvwxyz'[len(pictures)]}) {dim}-D latent space, {bits:.3f} bits/dim"
            pictures[title] = grids.grid(samples, levels=model.spec.levels)
    grids.write(out, grids.panel(pictures))
    typer.echo(f"samples side by side: {out}")


@app.command()
def progress(
    run: Annotated[list[str], typer.Argument(help="Ids or names of finished runs.", metavar="RUN...")],
    sigma_rel: Annotated[float, typer.Option(help="Relative width of the weight average.")] = 0.1,
    times: Annotated[
        int, typer.Option(min=2, max=10_000, help="Number of points in time; at most the number of stored snapshots.")
    ] = 4,
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("progress.png"),
    storage: instances.Storage = Path("gen_ray_runs"),
) -> None:
    """Evaluate models at several times of their training, and plot quality against minutes of training."""
    terminal.one_of("--out must end in", out.suffix, (".png",))
    from gen_ray.cluster.evaluation.progress import measured
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.engine.plots import grids
    from gen_ray.engine.plots import lines as curves
    from gen_ray.experiment import Scaling

    homes = [instances.find(name, storage).parent for name in run]
    drawn: dict[str, dict[str, list[tuple[float, float]]]] = {}
    lines: list[list[str]] = []
    with connected(Scaling()):
        for home in homes:
            for point in measured(home, sigma_rel, times):
                lines.append([home.name, f"{point.minutes:.1f}", *(f"{value:.3f}" for value in point.metrics.values())])
                for metric, value in point.metrics.items():
                    drawn.setdefault(metric, {}).setdefault(home.name, []).append((point.minutes, value))
    terminal.show_table("quality against minutes", ["run", "minutes", *drawn], lines)
    grids.write(out, curves.panels(drawn, x="minutes of training"))
    typer.echo(f"curves: {out}")


def _numbers(dims: str) -> list[int]:
    from gen_ray.errors import UserError

    try:
        numbers = [int(word) for word in dims.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if not 0 < len(set(numbers)) == len(numbers) <= 26:
        raise UserError(f"--dims {dims!r}: write different whole numbers, e.g. --dims 2,5,10,20")
    return numbers


if __name__ == "__main__":
    terminal.main(app)
