"""The graphs of an [`F5Backbone`] and of a student: text to embeddings, and a pass of one branch."""

import torch
from torch import nn

from dtm_hf.backbone.backbone_f5 import F5Backbone
from dtm_hf.f5_import import import_f5
from dtm_hf.ports.graph import FRAMES, ROWS, TOKENS, Graph, example_mask


class TextGraph(nn.Module):
    """
    F5's text encoder before any spreading over frames: `TextEmbedding.forward` of f5_tts for rows of one length, with
    what it computes from ids and lengths as inputs.

    Args:
        backbone ([`F5Backbone`]): whose encoder.
    """

    def __init__(self, backbone: F5Backbone):
        super().__init__()
        self.text_embed = backbone.dit.text_embed
        self.text_dim = backbone.config.text_dim
        self.positions = import_f5("f5_tts.model.modules", chinese=False).precompute_freqs_cis

    def forward(self, token_ids: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            token_ids (`torch.LongTensor` of shape `(B, L)`): ids + 1; 0 at fillers, and everywhere where the text is
                dropped.
            valid (`torch.BoolTensor` of shape `(B, L)`): `False` at fillers, also where the text is dropped.
        """
        states = self.text_embed.text_embed(token_ids)
        if self.text_embed.extra_modeling:
            # Computed: as a constant the positions would be most of the file of a small model.
            states = states + self.positions(self.text_dim, token_ids.shape[1]).to(states)
            if self.text_embed.mask_padding:
                filler = ~valid[..., None]
                states = states.masked_fill(filler, 0.0)
                for block in self.text_embed.text_blocks:
                    states = block(states).masked_fill(filler, 0.0)
            else:
                states = self.text_embed.text_blocks(states)
        return {"embeds": states}


class BackboneGraph(nn.Module):
    """
    One pass of the DiT, unmodified: velocity and features side by side. Both branches are a batch of 2B rows, so that
    one graph serves every kind of guidance.

    Args:
        backbone ([`F5Backbone`]): whose DiT.
        residual_layers (`int`, defaults to 0): the residual stream before so many last blocks is an output too.
    """

    def __init__(self, backbone: F5Backbone, residual_layers: int = 0):
        super().__init__()
        self.dit, self.num_steps_embed = backbone.dit, backbone.num_steps_embed
        self.residual_layers = residual_layers

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        cond: torch.Tensor,
        text_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        num_steps: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Shapes as of [`F5Backbone.forward`]; `timestep` and `num_steps` are `(B,)`, `text_embeds` `(B, N, C)`."""
        features, residual = [], []

        def tell_num_steps(_module, _inputs, embedded):
            return embedded + self.num_steps_embed(num_steps - 1)

        handles = [self.dit.proj_out.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))]
        if self.num_steps_embed is not None:
            handles.append(self.dit.time_embed.register_forward_hook(tell_num_steps))
        if self.residual_layers:
            block = self.dit.transformer_blocks[-self.residual_layers]
            handles.append(block.register_forward_pre_hook(lambda _, inputs: residual.append(inputs[0])))
        try:
            # The DiT's own cache, which it reads in the place of encoding a text.
            self.dit.text_cond = self.dit.text_uncond = text_embeds
            velocity = self.dit(x=sample, cond=cond, text=None, time=timestep, mask=attention_mask, cache=True)
        finally:
            for handle in handles:
                handle.remove()
            self.dit.clear_cache()
        outputs = {"velocity": velocity, "features": features[0]}
        return outputs | ({"residual": residual[0]} if residual else {})


def backbone_graphs(backbone: F5Backbone, residual_layers: int = 0) -> list[Graph]:
    """Graphs of a backbone or a student in evaluation mode; `residual_layers` as of [`BackboneGraph`]."""
    config = backbone.config
    mel, rows = (ROWS, FRAMES, config.mel_dim), (0, 1)
    inputs = {
        "sample": torch.randn(mel),
        "timestep": torch.rand(ROWS),
        "cond": torch.randn(mel),
        "text_embeds": torch.randn(ROWS, FRAMES, config.text_dim),
        "attention_mask": example_mask(FRAMES),
    }
    axes = dict.fromkeys(inputs, rows) | {"timestep": (0,)}
    if backbone.num_steps_embed is not None:
        inputs["num_steps"] = torch.full((ROWS,), config.step_counts[0])
        axes["num_steps"] = (0,)
    token_ids = torch.randint(1, config.text_num_embeds + 1, (ROWS, TOKENS))
    valid = example_mask(TOKENS)
    return [
        Graph(
            "text",
            TextGraph(backbone),
            {"token_ids": token_ids * valid, "valid": valid},
            dict.fromkeys(("token_ids", "valid"), rows),
        ),
        Graph("backbone", BackboneGraph(backbone, residual_layers), inputs, axes),
    ]
