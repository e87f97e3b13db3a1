"""gen-ray demo: train and compare every family on the embedded digits, and one on an embedded table."""

from pathlib import Path
from typing import Annotated

import typer

from gen_ray.metrics import BITS_PER_DIM, BITS_PER_ROW
from pipelines import terminal
from pipelines.instances import Storage
from pipelines.progress import VerbProgress

CONFIGS = Path(__file__).parents[1] / "configs" / "demo"


def demo(
    storage: Storage = Path("gen_ray_runs"),
    out: Annotated[Path, typer.Option(help="The PNG file to write.")] = Path("demo.png"),
) -> None:
    """Train a small model of every family on 8×8 digits, and one on a table; evaluate, compare, draw them (minutes)."""
    from gen_ray.cluster.data.preparation import prepare_data
    from gen_ray.cluster.evaluation.evaluate import make_summary_figure
    from gen_ray.cluster.nodes.connect import connected
    from gen_ray.cluster.training.train import train
    from gen_ray.engine.plots import grids
    from gen_ray.experiment import Scaling, load
    from gen_ray.tracking.store import Store

    runs, pictures = [], {}
    with connected(Scaling()):
        for file in sorted(CONFIGS.glob("*.yaml")):
            experiment = load(file, [f"storage.root={storage}"])
            with VerbProgress(experiment.name) as watch:
                done = train(experiment, watch=watch)
            measured = BITS_PER_ROW if BITS_PER_ROW.name in done.metrics else BITS_PER_DIM
            bits, unit = done.metrics[measured.name], measured.title
            typer.echo(f"{experiment.name}: {bits:.3f} {unit}")
            picture = make_summary_figure(experiment, prepare_data(experiment), done.artifact)
            pictures[f"{experiment.name}: {bits:.2f} {unit}"] = picture
            runs.append(done.run_id)
    grids.write(out, grids.panel(pictures))
    store = Store.of(None, experiment.tracking.experiment, storage)
    terminal.show_runs(store, BITS_PER_DIM.name, only=runs)
    typer.echo(
        f"samples, completed test images, and the table's marginals: {out}\nnext:\n"
        f"  gen-ray sample {runs[0]} --storage {storage} --out samples.png\n"
        f"  gen-ray train {CONFIGS.parent}/fashion-ddpm.yaml data.root=FOLDER_OF_FashionMNIST\n"
        f"  gen-ray compare demo --storage {storage}\n"
        f"  {terminal.ui_command(store)}"
    )


if __name__ == "__main__":
    terminal.main(demo)
