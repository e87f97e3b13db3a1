"""gen-ray VERB: all verbs on one command line."""

import typer

from pipelines import (
    bench,
    compare,
    demo,
    doctor,
    ema,
    evaluate,
    figure,
    impute,
    jobs,
    latent,
    plan,
    prepare,
    promote,
    queue,
    sample,
    schedule,
    score,
    serve,
    start,
    submit,
    sweep,
    terminal,
    train,
)

VERBS = (
    demo.demo,
    prepare.prepare,
    train.train,
    plan.plan,
    sweep.sweep,
    queue.queue,
    evaluate.evaluate,
    ema.ema,
    sample.sample,
    impute.impute,
    score.score,
    promote.promote,
    serve.serve,
    compare.compare,
    doctor.doctor,
)
GROUPS = {
    "jobs": (jobs.app, "List, follow and stop the jobs of a cluster."),
    "start": (start.app, "Start Ray or MLflow on the machines of a cluster."),
    "schedule": (schedule.app, "Recurring sweeps, launched by a daemon."),
    "latent": (latent.app, "Features, reconstructions, interpolations and maps of a latent space."),
    "figure": (figure.app, "Train and draw a figure of the literature with one command."),
    "bench": (bench.app, "Measure speed against a baseline; both alternate in one run."),
}


def new_app() -> typer.Typer:
    """Return the command line with all verbs."""
    app = terminal.new_group()
    for verb in VERBS:
        app.command()(verb)
    app.command(context_settings=submit.SETTINGS)(submit.submit)
    for name, (group, purpose) in GROUPS.items():
        app.add_typer(group, name=name, help=purpose)
    return app


def main() -> None:
    """Train, compare and sample the classical families of generative models on Ray."""
    terminal.main(new_app())


if __name__ == "__main__":
    main()
