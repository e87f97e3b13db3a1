"""Why a request came to nothing though it was not at fault."""


class BusyError(Exception):
    """There is more work waiting than may wait."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        """Keep when it is worth asking again."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class LateError(Exception):
    """Its deadline passed before it was done."""


class GivenUpError(Exception):
    """Who asked for it does not want it any more, or the batcher was closed."""


class NotFiniteError(Exception):
    """The net said NaN or infinity: there is no sample to show."""
