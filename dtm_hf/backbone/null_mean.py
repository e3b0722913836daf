"""The mean of what a backbone was trained on, read off its unconditional branch."""

import torch

from dtm_hf.backbone.contract import Backbone
from dtm_hf.precision import computed_fast

# Of English at a common pace, 12 characters a second.
_FRAMES_A_TOKEN = 8
# Frames at either end, a third of a second, in which speech begins and ends; 64 explained no more.
_EDGE = 32


@torch.no_grad()
@computed_fast
def null_mean(
    backbone: Backbone, num_frames: int = 512, num_draws: int = 8, generator: torch.Generator | None = None
) -> dict[str, list[float]]:
    """
    E[X_1], the mean log-mel by frame: v_u(X_0, 0) + X_0 over draws of X_0, as a [`~dtm_hf.mean_mel.MeanMel`].

    At t = 0 the state is noise that tells nothing of the data, so the best velocity without a condition is
    E[X_1] - X_0; a network comes near it. It knows that an utterance begins and ends in silence: what the frames at
    the ends have beyond the mean of the others is kept as its first singular vector, with a share for each frame.

    Args:
        backbone ([`~dtm_hf.backbone.contract.Backbone`]): with an unconditional branch.
        num_frames (`int`): of an utterance; the network has to have seen such.
        num_draws (`int`): utterances, one pass each.
        generator (`torch.Generator`, *optional*): on the CPU; by default one of seed 0.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    shape = (1, num_frames, backbone.config.mel_dim)
    # The unconditional branch does not see the tokens, but in F5's text encoder how many there are.
    tokens = torch.zeros((1, num_frames // _FRAMES_A_TOKEN), dtype=torch.long, device=backbone.device)
    aligned = backbone.config.text_alignment == "durations"
    durations = torch.full_like(tokens, _FRAMES_A_TOKEN) if aligned else None
    embeds = backbone.encode_text(tokens, None, num_frames, True, durations)
    total = torch.zeros(shape[1:], dtype=torch.float64)
    for _ in range(num_draws):
        x_0 = torch.randn(shape, generator=generator).to(backbone.device)
        answer = backbone(x_0, 0.0, torch.zeros_like(x_0), None, None, "null", text_embeds=embeds)
        total += (answer.velocity.float() + x_0)[0].double().cpu()
    by_frame, edge = total / num_draws, min(_EDGE, num_frames // 4)
    mean = by_frame[edge:-edge].mean(dim=0)
    beyond = torch.cat([by_frame[:edge], by_frame[-edge:].flip(0)]) - mean
    shares, sizes, (direction, *_) = torch.linalg.svd(beyond, full_matrices=False)
    shares = shares[:, 0] * sizes[0]
    # The frame that is farthest from the mean has a share of 1.
    farthest = shares[shares.abs().argmax()]
    shares = shares / farthest
    parts = {"mean": mean, "edge": mean + farthest * direction, "first": shares[:edge], "last": shares[edge:]}
    return {name: [round(value, 4) for value in values.tolist()] for name, values in parts.items()}
