"""The graphs of a [`TRMModel`]: its text, where the recursion begins, one cycle, and the logits of a codebook."""

import torch
from torch import nn
from torch.nn import functional as F

from dtm_hf.ports.graph import FRAMES, ROWS, TOKENS, Graph, example_mask
from dtm_hf.trm.modeling_trm import TRMModel


class TRMTextGraph(nn.Module):
    """[`TRMModel.encode_text`], without its checks."""

    def __init__(self, model: TRMModel):
        super().__init__()
        self.text_encoder = model.text_encoder

    def forward(self, text_ids: torch.Tensor, speaker_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"context": self.text_encoder(text_ids, speaker_ids)}


class TRMBeginGraph(nn.Module):
    """[`TRMModel.begin`]: of weights alone, which a port has in its graphs."""

    def __init__(self, model: TRMModel):
        super().__init__()
        self.model = model

    def forward(self, audio_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        answer, latent = self.model.begin(audio_mask)
        return {"answer": answer.clone(), "latent": latent.clone()}


class TRMCycleGraph(nn.Module):
    """
    [`TRMModel.cycle`] without the halting, which no sampler asks about. How many cycles there are is the caller's;
    of undecided codes it is told by the mask code.
    """

    def __init__(self, model: TRMModel):
        super().__init__()
        self.model = model

    def forward(
        self,
        answer: torch.Tensor,
        latent: torch.Tensor,
        codes: torch.Tensor,
        context: torch.Tensor,
        text_mask: torch.Tensor,
        audio_mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        output = self.model.cycle(answer, latent, codes, context, text_mask, audio_mask)
        # An output of an input's name would take it from that.
        return {"next_answer": output.answer, "next_latent": output.latent}


class TRMLogitsGraph(nn.Module):
    """[`TRMModel.logits`]; which codebook `(1,)` is an input, so that one graph serves all."""

    def __init__(self, model: TRMModel):
        super().__init__()
        self.head = model.head
        if not self.head.shared:
            self.register_buffer("weight", torch.stack([p.weight.detach() for p in self.head.projections]))
            self.register_buffer("bias", torch.stack([p.bias.detach() for p in self.head.projections]))

    def forward(self, answer: torch.Tensor, codebook: torch.Tensor) -> dict[str, torch.Tensor]:
        head = self.head
        condition = head.condition(head.embed(codebook))[0]
        if head.shared:
            shift, scale = condition.chunk(2)
            return {"logits": head.projections[0](F.gelu(head.norm(answer) * (1 + scale) + shift))}
        weight, bias = (part.index_select(0, codebook)[0] for part in (self.weight, self.bias))
        return {"logits": F.linear(answer + condition, weight, bias)}


def trm_graphs(model: TRMModel) -> list[Graph]:
    """The graphs of a model in evaluation mode."""
    config = model.config
    state = (ROWS, FRAMES, config.audio_dim)
    text_ids = torch.randint(2, max(config.vocab_size, 3), (ROWS, TOKENS)).clamp(max=config.vocab_size - 1)
    text_mask, audio_mask = example_mask(TOKENS), example_mask(FRAMES)
    cycle = {
        "answer": torch.randn(state),
        "latent": torch.randn(state),
        "codes": torch.randint(config.mask_code + 1, (ROWS, config.num_codebooks, FRAMES)),
        "context": torch.randn(ROWS, TOKENS, config.text_dim),
        "text_mask": text_mask,
        "audio_mask": audio_mask,
    }
    axes = dict.fromkeys(cycle, (0, 1)) | {"codes": (0, 2)}
    text = {"text_ids": text_ids * text_mask, "speaker_ids": torch.zeros(ROWS, dtype=torch.long)}
    return [
        Graph("text", TRMTextGraph(model), text, {"text_ids": (0, 1), "speaker_ids": (0,)}),
        Graph("begin", TRMBeginGraph(model), {"audio_mask": audio_mask}, {"audio_mask": (0, 1)}),
        Graph("cycle", TRMCycleGraph(model), cycle, axes),
        Graph(
            "logits",
            TRMLogitsGraph(model),
            {"answer": torch.randn(state), "codebook": torch.tensor([config.num_codebooks - 1])},
            {"answer": (0, 1)},
        ),
    ]
