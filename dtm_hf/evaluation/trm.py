"""TRM in a benchmark: its numbers of cycles, with feedback of what is decided and without, and its head's calls."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dtm_hf.backbone.fingerprint import fingerprint_of
from dtm_hf.codec.mimi import codec_fingerprint, decode_codes, decode_latents
from dtm_hf.evaluation.foreign_arms import ForeignArm
from dtm_hf.evaluation.metric import BenchmarkItem, Speech
from dtm_hf.evaluation.systems import Said, log_mel, runtime_of
from dtm_hf.pipelines.code_sampling import choose_sampling

if TYPE_CHECKING:
    from dtm_hf.pipelines.pipeline_trm import TRMPipeline


class TRMSystem:
    """
    [`~dtm_hf.evaluation.systems.ForeignSystem`] of a [`TRMPipeline`]. An item is spoken in the pipeline's voice of the
    name of its speaker, else in its first voice; prompts are not gone on from.

    Args:
        pipe ([`TRMPipeline`]): Loaded, on its device.
        extractor ([`F5FeatureExtractor`]): Of the mels that are judged.
    """

    kind = "trm"

    def __init__(self, pipe: "TRMPipeline", extractor: Any):
        self.pipe, self.extractor = pipe, extractor

    @property
    def fingerprint(self) -> str:
        """As of [`ForeignSystem`]."""
        codec = self.pipe.codec
        parts = [part for part in (self.pipe.model, self.pipe.head, codec) if part is not None]
        # Codebooks are no parameters; a port is known by those of its source.
        books = [] if hasattr(codec, "manifest") else [codec_fingerprint(codec)]
        return " ".join([*map(fingerprint_of, parts), *books, runtime_of(codec)])

    def check(self, arm: ForeignArm) -> None:
        """As of [`System`]: whether the model speaks in codes or in latents decides."""
        choose_sampling(self.pipe, **{"temperature": 0.8, "top_k": 50, "top_p": None} | self._sampling(arm))

    def say(self, arm: ForeignArm, items: list[BenchmarkItem], sampling_rate: int, seeds: list[int]) -> list[Said]:
        """As of [`System`]: codes `(K, F)`, or latents `(M, F)`, drawn as the pipeline does by default."""
        voices = self.pipe.speakers
        sampling = self._sampling(arm)
        output = self.pipe(
            [item.text for item in items],
            [item.speaker if item.speaker in voices else voices[0] for item in items],
            duration_s=[item.duration_s for item in items],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
            **{name: value for name, value in sampling.items() if value is not None},
        )
        return [Said(item.cpu().numpy()) for item in output.audios]

    def hear(self, kept: list[np.ndarray]) -> list[Speech]:
        """As of [`System`], by the codec."""
        codec, rate, speeches = self.pipe.codec, self.pipe.sampling_rate, []
        for item in kept:
            found = torch.from_numpy(item)
            decode = decode_latents if found.is_floating_point() else decode_codes
            sound = decode(codec, [found])[0].cpu().numpy()
            speeches.append(Speech(sound, rate, log_mel(self.extractor, sound, rate)))
        return speeches

    def _sampling(self, arm: ForeignArm) -> dict[str, Any]:
        """Arguments of [`choose_sampling`], and of a call, that the name of an arm decides."""
        options, latents = arm.options, self.pipe.model.config.latent_dim is not None
        calls = options["head_steps"]
        decoding = "independent" if options["independent"] else None if latents else "masked"
        return {
            "num_inference_steps": int(options["cycles"]),
            "guidance_scale": float(options["scale"] or 1.0),
            "guidance_end": 1.0,
            "decoding": decoding,
            "halt_threshold": None,
            "num_head_steps": None if calls is None else int(calls),
        }


__all__ = ["TRMSystem"]
