"""Arms of systems that are no DTM, by the forms of their names. Imports no torch: a bad name is refused at once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from dtm_hf.evaluation.arms import Arm, parse_arm

# Pattern and description of the names of each kind; `dtm_hf.evaluation.foreign` has the system that runs it.
FORMS: dict[str, tuple[str, str]] = {
    "speecht5": (r"speecht5", "speecht5"),
    "trm": (
        r"trm-(?P<cycles>[1-9]\d*)(?:\+(?P<head_steps>\d+)|(?P<independent>:independent))?(?:@(?P<scale>\d+(?:\.\d+)?))?",
        "trm-H, trm-H:independent or trm-H+S, with @SCALE behind it for guidance",
    ),
}


@dataclass(frozen=True)
class ForeignArm:
    """
    One way in which another system speaks.

    Args:
        name (`str`): As it was given; the key in the results.
        kind (`str`): Key of `FORMS`.
        options (`Mapping[str, str | None]`): What the named groups of its pattern matched.
    """

    name: str
    kind: str
    options: Mapping[str, str | None] = field(default_factory=dict)


def parse_any_arm(name: str) -> Arm | ForeignArm:
    """
    An arm of DTM ([`parse_arm`]), or of another system: `speecht5`, which speaks until it says that it is done;
    `trm-H`, H cycles of TRM that see what is decided, `trm-H:independent`, whose cycles see nothing, and `trm-H+S`, H
    cycles and S head calls of a model of latents.

    Raises:
        ValueError: for another form.
    """
    kind = re.split(r"[^a-z0-9]", name, maxsplit=1)[0]
    if kind not in FORMS:
        return parse_arm(name)
    pattern, form = FORMS[kind]
    match = re.fullmatch(pattern, name)
    if match is None:
        raise ValueError(f"`arms` of {kind} must be of the form {form}, but got {name!r}.")
    return ForeignArm(name, kind, match.groupdict())
