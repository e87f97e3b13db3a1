"""gen-ray serve [MODEL …]: serve trained models over HTTP, with an API and a page."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gen_ray.host import signals
from pipelines import instances, terminal
from pipelines.instances import Storage

if TYPE_CHECKING:
    from gen_ray.cluster.serving.args import ServingApplication


@dataclass(frozen=True)
class ListenOptions:
    """The address of the server."""

    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs API keys.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000
    allow_host: Annotated[list[str] | None, typer.Option(help="Host name that requests may use. May be repeated.")] = (
        None
    )


@dataclass(frozen=True)
class ReplicaOptions:
    """The replicas of each model and their resources."""

    cpus: Annotated[float, typer.Option(min=0, max=10_000, help="Cores and compute threads per replica.")] = 1
    gpus: Annotated[
        float, typer.Option(min=0, max=1, help="GPUs per replica; a fraction lets replicas share a GPU.")
    ] = 0
    min_replicas: Annotated[int, typer.Option(min=1, max=1000, help="Minimum number of replicas per model.")] = 1
    max_replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1000,
            help="Maximum number of replicas per model; replicas are added when work waits. Default: --min-replicas.",
        ),
    ] = None
    backlog_seconds: Annotated[
        float,
        typer.Option(min=0.1, max=86_400, help="Seconds of work that may wait at a replica; further requests get 429."),
    ] = 20.0
    follow_seconds: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="Seconds between checks for a new champion.")
    ] = 10.0


@terminal.option_groups
def serve(
    listen: ListenOptions,
    replicas: ReplicaOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs, artifact folders or models:/NAME@champion, each also as ID=MODEL. Default: every champion."
        ),
    ] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="URI of MLflow. Default: the store below --storage.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the application running on the cluster (RAY_ADDRESS) and return.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the application that the cluster (RAY_ADDRESS) serves now.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the application that --detach left running.")] = False,
    config: Annotated[bool, typer.Option("--config", help="Print the YAML for `serve deploy` and exit.")] = False,
    storage: Storage = Path("gen_ray_runs"),
) -> None:
    """Serve models over HTTP, with an interactive page at /; new champions are loaded as they appear.

    API keys are read from GEN_RAY_API_KEYS=name:key,name:key. Ctrl-C and SIGTERM finish the running requests first.
    """
    if stop:
        typer.echo("stopped" if _stop() else "nothing was served")
        return
    app = application(models or [], listen, replicas, tracking_uri, storage)
    if config:
        typer.echo(_yaml(app, listen), nl=False)
        return
    from gen_ray.cluster.serving import server  # imports Ray Serve, which takes longer than all the checks
    from gen_ray.storage.paths import local_dir

    with server.served(app, listen.host, listen.port, detached=detach, replace=replace) as url:
        _show(app, url)
        typer.echo(f"requests: {local_dir(app.root) / 'serving'}; metrics for Prometheus: {', '.join(server.nodes())}")
        if not detach:
            signals.wait()
            typer.echo("ending: running requests are finished first", err=True)


def _stop() -> bool:
    from gen_ray.cluster.serving import server

    return server.stop()


def _show(app: "ServingApplication", url: str) -> None:
    for id, model in app.models.items():
        typer.echo(f"{id}: {model.model}")
    typer.echo(f"{url}/ is the page, {url}/docs the API; {_keys(app)}")


def application(
    models: list[str], listen: ListenOptions, replicas: ReplicaOptions, tracking_uri: str | None, storage: Path
) -> "ServingApplication":
    """Return the application to serve. Raise UserError before anything starts if it cannot be served."""
    import os

    from gen_ray.cluster.nodes.ports import LOOPBACK
    from gen_ray.cluster.serving.args import ServedModel, ServingApplication
    from gen_ray.errors import UserError
    from gen_ray.serving import settings
    from gen_ray.tracking import signing

    keys = settings.from_environment(os.environ).keys
    if listen.host not in LOOPBACK and not keys:
        raise UserError(
            f"--host {listen.host}: other machines could reach it; set GEN_RAY_API_KEYS=name:key, or leave --host out"
        )
    most = replicas.max_replicas or replicas.min_replicas
    if most < replicas.min_replicas:
        raise UserError(f"--max-replicas {most}: is less than --min-replicas {replicas.min_replicas}")
    named = _sources(models, storage, tracking_uri)
    return ServingApplication(
        models={
            id: ServedModel(
                model=model,
                min_replicas=replicas.min_replicas,
                max_replicas=most,
                cpus=replicas.cpus,
                gpus=replicas.gpus,
                backlog_seconds=replicas.backlog_seconds,
            )
            for id, model in named.items()
        },
        root=storage,
        tracking_uri=tracking_uri,
        follow_seconds=replicas.follow_seconds,
        require_signatures=signing.key() is not None,
        key_hashes={key.name: key.digest.hex() for key in keys},
        hosts=settings.host_names(listen.allow_host or (), "--allow-host"),
    )


def _sources(models: list[str], root: Path, tracking_uri: str | None) -> dict[str, str]:
    """Return the models to serve by id; every champion if none is named. Raise UserError, RunError."""
    from gen_ray.engine.inference import artifact
    from gen_ray.errors import UserError
    from gen_ray.run_directory import REGISTERED
    from gen_ray.tracking.releases import champions
    from gen_ray.tracking.store import Store

    named = dict(_named(model) for model in models)
    if not models:
        registered = champions(Store.of(tracking_uri, "gen_ray", root))
        named = {name: f"{REGISTERED}{name}@champion" for name in registered}
    if not named:
        raise UserError("there is no champion to serve: gen-ray promote RUN makes one, or name a run")
    for model in named.values():
        artifact.verify(instances.find(model, root, tracking_uri))
    return named


def _named(text: str) -> tuple[str, str]:
    """Return a served model's id and location. Raise UserError for an id that cannot be part of a path."""
    from gen_ray.configuration.field_types import NAME_PATTERN
    from gen_ray.errors import UserError
    from gen_ray.run_directory import REGISTERED

    id, equals, model = text.partition("=")
    if not equals:
        model = text
        id = re.sub(r"^models:/|[@/]\w+$", "", text) if text.startswith(REGISTERED) else _folder(text)
    if not re.fullmatch(NAME_PATTERN, id):
        raise UserError(
            f"{text}: an id is 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit; "
            "name one with ID=MODEL"
        )
    return id, model


def _folder(text: str) -> str:
    if text.startswith("runs:/"):
        return text.split("/")[1]
    path = Path(text)
    return path.parent.name if path.name == "artifact" else path.name


def _keys(app: "ServingApplication") -> str:
    names = ", ".join(app.key_hashes)
    return f"keys of {names}" if names else "open to this machine without a key"


def _yaml(app: "ServingApplication", listen: ListenOptions) -> str:
    """Return the YAML for `serve deploy`; it includes the address because the default is all interfaces."""
    import yaml

    from gen_ray.cluster.serving.args import NAME as APP

    args = app.model_dump(mode="json", exclude_defaults=True)
    application = {"name": APP, "route_prefix": "/", "import_path": "gen_ray.cluster.serving.app:build", "args": args}
    listening = {"host": listen.host, "port": listen.port}
    return yaml.safe_dump({"http_options": listening, "applications": [application]}, sort_keys=False)


if __name__ == "__main__":
    terminal.main(serve)
