"""What may be asked of the server: OpenAI's fields for speech, and those of few steps."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dtm_hf.reading import show
from dtm_hf.serving.encoding import FORMATS
from dtm_hf.serving.limits import Limits, Refused

# Arguments of a pipeline by the fields that they are here.
_FIELDS = {"text": "input", "generator": "seed", "reference_audio": "voice", "reference_text": "voice"}

NO_OBJECT = "The body must be a JSON object, sent as application/json."


class NamedVoice(BaseModel):
    """A voice as OpenAI's interface names those of one's own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


class SpeechBody(BaseModel):
    """
    The body of `POST /v1/audio/speech`. The last five fields are not OpenAI's; its client sends them as `extra_body`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str
    input: str
    voice: str | NamedVoice
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"
    speed: Annotated[float, Field(ge=0.25, le=4.0)] = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str = ""
    num_inference_steps: Annotated[int, Field(ge=1)] | None = None
    num_head_steps: Annotated[int, Field(ge=0)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    guidance_end: Annotated[float, Field(ge=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @property
    def voice_name(self) -> str:
        """Name of the voice, however it was written."""
        return self.voice if isinstance(self.voice, str) else self.voice.id

    @property
    def sampling(self) -> dict[str, Any]:
        """As arguments of a pipeline."""
        return {
            "num_inference_steps": self.num_inference_steps,
            "num_head_steps": self.num_head_steps,
            "guidance_scale": self.guidance_scale,
            "guidance_end": self.guidance_end,
        }


def check_body(body: SpeechBody, model: str, voices: list[str], formats: list[str], limits: Limits) -> None:
    """
    Raises:
        Refused: for what this server does not serve.
    """
    if body.model != model:
        raise Refused(404, f"`model` must be {model!r}, but got {show(body.model)}.", "model", code="model_not_found")
    if body.voice_name not in voices:
        raise Refused(400, f"`voice` must be one of {voices}, but got {show(body.voice_name)}.", "voice")
    if body.response_format not in formats:
        known = "has no encoder on this server" if body.response_format in FORMATS else "is not offered"
        raise Refused(
            400,
            f"`response_format` must be one of {formats}, but got {body.response_format!r}, which {known}.",
            "response_format",
        )
    if body.stream_format != "audio":
        raise Refused(
            400, "`stream_format` must be 'audio'; with `response_format` 'pcm' it is a stream.", "stream_format"
        )
    if body.instructions.strip():
        raise Refused(400, "`instructions` are not followed by this model; leave them out.", "instructions")
    if len(body.input) > limits.max_characters:
        raise Refused(
            400,
            f"`input` must be at most {limits.max_characters} characters, but got {len(body.input)}.",
            "input",
            code="string_above_max_length",
        )
    for name in ("num_inference_steps", "num_head_steps"):
        if (steps := getattr(body, name)) is not None and steps > limits.max_steps:
            raise Refused(400, f"`{name}` must be at most {limits.max_steps} on this server, but got {steps}.", name)


def refused_argument(error: Exception) -> Refused:
    """What a pipeline says of an argument, in the words of the fields here."""
    message = re.sub(r"`(\w+)`", lambda found: f"`{_FIELDS.get(found[1], found[1])}`", " ".join(str(error).split()))
    first = re.search(r"`(\w+)`", message)
    field = first[1] if first and first[1] in SpeechBody.model_fields else None
    return Refused(400, message or type(error).__name__, field)


def refused_field(errors: list[Any]) -> Refused:
    """The first of pydantic's complaints as one sentence."""
    error = errors[0]
    # Which of several types was tried is nobody's business.
    place = [str(part) for part in error["loc"] if part not in ("body", "str", "NamedVoice")]
    if not place or error["type"] == "json_invalid":
        return Refused(400, NO_OBJECT)
    name = ".".join(place)
    if error["type"] == "missing":
        message = f"`{name}` is missing."
    elif error["type"] == "extra_forbidden":
        message = f"`{name}` is no field here; there are {', '.join(SpeechBody.model_fields)}."
    else:
        message = f"`{name}` {error['msg'].replace('Input should be', 'must be')}, but got {show(error['input'])}."
    return Refused(400, message, place[0])
