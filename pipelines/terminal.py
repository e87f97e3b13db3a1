"""Entry point and output of the verbs: one-line errors with exit codes, groups of options, tables of runs."""

import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from gen_ray.host import ray_token, shadowing, signals
from gen_ray.storage.user_paths import without_file_uri
from pipelines import failures
from pipelines.tables import show_table as show_table

if TYPE_CHECKING:
    from gen_ray.maths.sampler import Sampler
    from gen_ray.tracking.comparison import Table
    from gen_ray.tracking.store import Store


INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main(verb: typer.Typer | Callable[..., Any]) -> None:
    """Run one verb or all of them. Exit codes: 0 done, 1 failed, 2 user error; --debug shows the traceback."""
    # Must precede the import of torch, which reads it once: threads that spin at barriers slow down all other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    failures.prepare_streams()
    failures.find_home()
    ray_token.enable()
    _bypass_proxy()
    app = verb if isinstance(verb, typer.Typer) else _single_verb(verb)
    debug = "--debug" in sys.argv
    sys.argv = [word for word in sys.argv if word != "--debug"]
    if isinstance(verb, typer.Typer) and not sys.argv[1:]:
        sys.argv.append("--help")
    from gen_ray.errors import EndedError, RunError, UserError

    try:
        _run(app)
    except (UserError, RunError) as error:
        if debug:
            raise
        _fail(str(error), 2 if isinstance(error, UserError) else 1)
    except EndedError as error:
        _fail(str(error), error.code)
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: an unknown verb or option, a missing argument
            _fail(f"{error.format_message()} ({failures.remedy(error)})", 2)
        if isinstance(error, BrokenPipeError) and failures.is_closed(1):
            failures.discard_output()
            raise SystemExit(1) from None
        if debug:
            raise
        if explained := failures.explained(error):
            _fail(*explained)
        line = (str(error).strip().splitlines() or [""])[0]
        _fail(f"{type(error).__name__}: {line} (a bug? --debug shows where)", 1)


def _run(app: Callable[..., Any]) -> NoReturn:
    """Run a command line and exit with its code. Raise KeyboardInterrupt if Ctrl-C ended it."""
    from gen_ray.errors import UserError

    if fault := failures.unreadable_word(sys.argv):
        raise UserError(fault)
    sys.argv[1:] = map(without_file_uri, sys.argv[1:])
    shadowing.check(Path.cwd())
    with signals.end_in_order():
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # typer's exit code for Ctrl-C
            raise KeyboardInterrupt
        if sys.stdout:
            sys.stdout.flush()  # a full disk or a closed pipe is reported here, with its exit code
        raise SystemExit(code)


def _bypass_proxy() -> None:
    """Exclude this machine from HTTP proxies, so that clients reach its Ray dashboard, MLflow and object store."""
    present = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name for name in ("localhost", "127.0.0.1", "::1") if name not in present.split(",")]
    merged = ",".join([*filter(None, [present]), *names])
    os.environ.update(no_proxy=merged, NO_PROXY=merged)


def _single_verb(verb: Callable[..., Any]) -> typer.Typer:
    app = new_app()
    app.command()(verb)
    return app


def new_app() -> typer.Typer:
    """Return an empty command line."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def new_group() -> typer.Typer:
    """Return an empty command line whose verbs are always named, even if it has only one."""
    return typer.Typer(
        callback=_no_options, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )


def _no_options() -> None:
    # A callback makes typer treat the app as a group. A docstring would become the group's help text.
    return


def option_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Return a verb in which each field of a dataclass parameter is a separate option.

    Verbs can then share a dataclass of related options; typer itself has no such groups.
    """
    own = inspect.signature(verb)
    groups: dict[str, Any] = {p.name: p.annotation for p in own.parameters.values() if is_dataclass(p.annotation)}
    names = {group: [field.name for field in fields(kind)] for group, kind in groups.items()}

    @wraps(verb)
    def flat(**values: Any) -> None:
        made = {group: kind(**{name: values.pop(name) for name in names[group]}) for group, kind in groups.items()}
        verb(**values, **made)

    options = [option for p in own.parameters.values() for option in _options_of(p)]
    flat.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
    return flat


def _options_of(parameter: inspect.Parameter) -> list[inspect.Parameter]:
    """Return the parameter, or one parameter per field if it is a dataclass; keyword-only, as typer passes them."""
    kind = parameter.annotation
    if not is_dataclass(kind):
        return [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    return [
        inspect.Parameter(
            field.name,
            parameter.KEYWORD_ONLY,
            default=parameter.empty if field.default is MISSING else field.default,
            annotation=field.type,
        )
        for field in fields(kind)
    ]


def _fail(line: str, code: int) -> None:
    with suppress(OSError):  # the terminal may be gone
        typer.echo(f"error: {failures.one_line(failures.with_flags(line))}", err=True)
    failures.flush()
    signals.exit_process(code)
    raise SystemExit(code)


def show_metrics(metrics: Mapping[str, float], provenance: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the metrics of an evaluation, each with its provenance."""
    from gen_ray.engine.evaluation.provenance import reader_note
    from gen_ray.metrics import FRECHET_DISTANCE

    for name, value in metrics.items():
        how = provenance.get(name)
        origin = "  (" + ", ".join(f"{key} {word}" for key, word in how.items()) + ")" if how else ""
        more = f"; {reader_note(how)}" if how and name == FRECHET_DISTANCE.name and reader_note(how) else ""
        typer.echo(f"  {name} {value:.5g}{origin}{more}")


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise UserError with the nearest known values if value is not one of them."""
    from gen_ray.errors import UserError, nearest

    if value not in choices:
        raise UserError(f"{option} {value!r}: {nearest(value, choices)}")


def check_name(option: str, value: str) -> None:
    """Raise UserError if value is not a valid name for a path or an address."""
    from gen_ray.configuration.field_types import NAME_PATTERN
    from gen_ray.errors import UserError

    if not re.fullmatch(NAME_PATTERN, value):
        raise UserError(
            f"{option} {value}: a name is 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
        )


def show_chains(kind: str, known: Mapping[str, "Sampler"]) -> None:
    """Print the samplers or imputers, one per line, with source, options and cost."""
    lines = [
        [name, about.summary, _options(about), str(about.least_steps), *_cost(about)] for name, about in known.items()
    ]
    header = [kind, "source", "options", "least steps", "steps", "nfe/step", "nfe"]
    show_table(f"{kind}s, the default one first", header, lines, prose=("source", "options"))
    typer.echo(f"--{kind} NAME or NAME:option=value,…; steps: the default; nfe: network evaluations of these steps")


def _options(about: "Sampler") -> str:
    return ", ".join(f"{key}={low:g}…{high:g}" for key, (low, high) in about.options.items())


def _cost(about: "Sampler") -> list[str]:
    """Return default steps, evaluations per step and in total; the latter two vary for an adaptive solver."""
    if about.adaptive:
        return [str(about.default_steps), "varies", "varies"]
    return [str(about.default_steps), str(about.nfe_per_step), str(about.nfe(about.default_steps))]


def show_runs(store: "Store", sort: str, *, only: Collection[str] = (), where: Collection[str] = ()) -> "list[Table]":
    """Print and return the matching finished runs of a store, one table per provenance."""
    groups = find_runs(store, sort, only=only, where=where)
    for group in groups:
        show_table(group.title, group.header, group.lines, dispensable=group.dispensable)
    return groups


def find_runs(
    store: "Store", sort: str, *, only: Collection[str] = (), where: Collection[str] = (), err: bool = False
) -> "list[Table]":
    """Return the matching finished runs of a store. If there are none, print a line (on stderr if err)."""
    from gen_ray.tracking.comparison import chosen, tables
    from gen_ray.tracking.runs import experiments, rows

    groups = tables([row for row in chosen(rows(store), where) if not only or row.run_id in only], sort)
    if not groups:
        names = ", ".join(experiments(store))
        conditions = " ".join(["no finished runs", *(f"with {filter_}" for filter_ in where)])
        line = f"{conditions} in experiment {store.experiment!r} of {store.uri}; experiments there: {names or 'none'}"
        typer.echo(f"{line}; gen-ray compare EXPERIMENT shows another one" if names else line, err=err)
    return groups


def ui_command(store: "Store") -> str:
    """Return the command that opens the MLflow UI on a store, with its address."""
    if store.uri.startswith("http"):
        return store.uri
    return f"mlflow ui --backend-store-uri {shlex.quote(store.uri)} --port 5000   then open http://127.0.0.1:5000"
