"""TRM as graphs."""

from typing import Any

import torch

from dtm_hf.ports.ported import Ported
from dtm_hf.ports.ported_speecht5 import TensorGraphs
from dtm_hf.trm.configuration_trm import TRMConfig
from dtm_hf.trm.modeling_trm import TRMOutput


class PortedTRM(Ported):
    """A [`TRMModel`] as graphs: what [`~dtm_hf.pipelines.masked_sampler.generate_codes`] asks of one."""

    network = TensorGraphs

    def _read_config(self, content: dict[str, Any]) -> TRMConfig:
        return TRMConfig.from_dict(content)

    def num_parameters(self) -> int:
        """Of the model that the port was made of."""
        return self.manifest.num_parameters

    def encode_text(self, text_ids: torch.Tensor, speaker_ids: torch.Tensor) -> torch.Tensor:
        """As of [`TRMModel.encode_text`]; the pipeline has checked the text."""
        return self._runs("text", text_ids=text_ids, speaker_ids=speaker_ids)["context"]

    def begin(self, audio_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As of [`TRMModel.begin`]."""
        start = self._runs("begin", audio_mask=audio_mask)
        return start["answer"], start["latent"]

    def cycle(
        self,
        answer: torch.Tensor,
        latent: torch.Tensor,
        codes: torch.Tensor | None,
        context: torch.Tensor,
        text_mask: torch.Tensor,
        audio_mask: torch.Tensor,
    ) -> TRMOutput:
        """As of [`TRMModel.cycle`], without `halt_logits`."""
        if codes is None:
            shape = (len(audio_mask), self.config.num_codebooks, audio_mask.shape[1])
            codes = torch.full(shape, self.config.mask_code, device=audio_mask.device)
        tensors = {"answer": answer, "latent": latent, "codes": codes, "context": context}
        output = self._runs("cycle", **tensors, text_mask=text_mask, audio_mask=audio_mask)
        return TRMOutput(output["next_answer"], output["next_latent"])

    def logits(self, answer: torch.Tensor, codebook: int) -> torch.Tensor:
        """As of [`TRMModel.logits`]."""
        return self._runs("logits", answer=answer, codebook=torch.tensor([codebook]))["logits"]


__all__ = ["PortedTRM"]
