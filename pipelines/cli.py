"""gen-ray VERB: all verbs on one command line."""

from pipelines import bench, compare, demo, doctor, evaluate, prepare, sample, terminal, train

VERBS = (demo.demo, prepare.prepare, train.train, evaluate.evaluate, sample.sample, compare.compare, doctor.doctor)


def main() -> None:
    """Train, compare and sample the classical families of generative models on Ray."""
    app = terminal.new_app()
    app.callback()(lambda: None)
    for verb in VERBS:
        app.command()(verb)
    app.add_typer(bench.app, name="bench", help="Measure a figure against its baseline, alternating in one run.")
    terminal.main(app)


if __name__ == "__main__":
    main()
