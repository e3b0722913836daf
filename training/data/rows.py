"""Why a row gives no sample."""


class BadRow(ValueError):
    """A row that cannot be trained on; the message is the reason it is counted under."""


class WrongLength(ValueError):
    """A row that is dropped for its length, which is no fault; the message is the reason it is counted under."""
