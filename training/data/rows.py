"""Why a row gives no sample."""


class BadRow(ValueError):
    """
    A row that cannot be trained on.

    Args:
        reason (`str`): what it is counted under, one of a few.
        detail (`str`, *optional*): where it is and what would do, as it is listed.
    """

    def __init__(self, reason: str, detail: str | None = None):
        super().__init__(reason)
        self.detail = detail


class WrongLength(ValueError):
    """A row that is dropped for its length, which is no fault; the message is the reason it is counted under."""
