"""The options next to --resume that train and sweep share."""

from typing import Annotated

import typer

TakeOver = Annotated[
    bool, typer.Option("--take-over", help="With --resume: ask the live owner of the folder to end, then continue.")
]
AcceptData = Annotated[
    bool, typer.Option("--accept-data", help="With --resume: continue although the data differ from those of the run.")
]


def check_resume(*, resume: bool, take_over: bool, accept_data: bool) -> None:
    """Raise UserError for an option that has no effect without --resume."""
    from gen_ray.errors import UserError

    for option, is_given in (("--take-over", take_over), ("--accept-data", accept_data)):
        if is_given and not resume:
            raise UserError(f"{option}: has no effect without --resume")
