"""gen-ray start head|worker|mlflow: start Ray or MLflow on the machines of a cluster."""

from typing import Annotated

import typer

from pipelines import terminal

app = terminal.new_group()
Options = Annotated[
    list[str] | None, typer.Argument(metavar="[-- RAY OPTIONS …]", help="Further options for ray start.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="Start without authentication: anyone who reaches this machine can use it.")
]


@app.command()
def head(
    options: Options = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Ray's port, for the other machines.")] = 6379,
    dashboard_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port of dashboard and jobs, on loopback.")
    ] = 8265,
    insecure: Insecure = False,
) -> None:
    """Start Ray on a cluster's head. It requires a token, which is created if there is none."""
    from gen_ray.cluster.nodes import nodes
    from gen_ray.host import ray_token

    _warn(insecure)
    code = nodes.head(port=port, dashboard_port=dashboard_port, insecure=insecure, options=options or [])
    if not code and not insecure:
        typer.echo(f"the token is in {ray_token.file()}; every machine of the cluster needs a copy")
    raise typer.Exit(code)


@app.command()
def worker(
    address: Annotated[str, typer.Argument(metavar="HEAD:PORT", help="Address of the head.")],
    options: Options = None,
    insecure: Insecure = False,
) -> None:
    """Start Ray on a further machine of a cluster, with the token of the head."""
    from gen_ray.cluster.nodes import nodes

    _warn(insecure)
    raise typer.Exit(nodes.worker(address, insecure=insecure, options=options or []))


@app.command()
def mlflow(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host name that requests may use. May be repeated.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when the server answers, and leave it running.")
    ] = False,
    insecure: Insecure = False,
) -> None:
    """Start MLflow's server with SQLite and files below GEN_RAY_STORAGE.

    MLFLOW_BACKEND_STORE_URI and MLFLOW_ARTIFACTS_DESTINATION select a database and an object store instead.
    """
    from gen_ray.cluster.nodes import nodes, ports

    code = nodes.mlflow(host=host, port=port, insecure=insecure, detach=detach, names=allow_host or [])
    if detach:
        address = ports.own_url(host, port)
        typer.echo(f"MLflow answers at {address}; export MLFLOW_TRACKING_URI={address}")
    raise typer.Exit(code)


def _warn(insecure: bool) -> None:
    if insecure:
        typer.echo("warning: anyone who reaches this machine can run code on it (--insecure)", err=True)


if __name__ == "__main__":
    terminal.main(app)
