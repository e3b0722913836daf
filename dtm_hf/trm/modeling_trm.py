"""TRM: a recursive network from characters and a voice to the codes of speech."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from dtm_hf.validation import CheckedConfigMixin

from .configuration_trm import TRMConfig
from .recursion import UPDATE_CLASSES, shared_places

# Halting is rare until it has been learnt.
_HALT_BIAS = -5.0


@dataclass
class TRMOutput(ModelOutput):
    """
    Output of [`TRMModel`].

    Args:
        answer (`torch.Tensor` of shape `(B, T, D)`): y, of which [`TRMModel.logits`] makes codes.
        latent (`torch.Tensor` of shape `(B, T, D)`): z, to go on from.
        halt_logits (`torch.Tensor` of shape `(B,)`): logit of the probability that the codes it would write are right.
    """

    answer: torch.FloatTensor | None = None
    latent: torch.FloatTensor | None = None
    halt_logits: torch.FloatTensor | None = None


def sinusoids(places: torch.Tensor, dim: int) -> torch.Tensor:
    """Sinusoidal embedding of places of any shape `(...)`, to `(..., dim)`, dim even."""
    exponent = torch.arange(dim // 2, device=places.device, dtype=torch.float32) * (-math.log(10000.0) * 2 / dim)
    angles = places.float()[..., None] * exponent.exp()
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TRMTextEncoder(nn.Module):
    """Characters and a voice to a context: sinusoidal positions, a transformer encoder, the voice added everywhere."""

    def __init__(self, config: TRMConfig):
        super().__init__()
        dim = config.text_dim
        self.embed = nn.Embedding(config.vocab_size, dim, padding_idx=0)
        layer = nn.TransformerEncoderLayer(
            dim, config.num_heads, config.ffn_dim, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.text_layers, norm=nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.speaker_embed = nn.Embedding(len(config.speakers), config.speaker_embed_dim)
        self.speaker_proj = nn.Linear(config.speaker_embed_dim, dim)

    def forward(self, text_ids: torch.Tensor, speaker_ids: torch.Tensor) -> torch.Tensor:
        """`(B, L)` and `(B,)` to `(B, L, text_dim)`."""
        embeds = self.embed(text_ids)
        places = torch.arange(text_ids.shape[1], device=text_ids.device)
        embeds = embeds + sinusoids(places, embeds.shape[-1]).to(embeds.dtype)
        context = self.encoder(embeds, src_key_padding_mask=text_ids == 0)
        return context + self.speaker_proj(self.speaker_embed(speaker_ids))[:, None]


class TRMCodeHead(nn.Module):
    """The answer to logits, one codebook at a time: all of them together take gigabytes."""

    def __init__(self, config: TRMConfig):
        super().__init__()
        dim, number = config.audio_dim, config.num_codebooks
        self.embed = nn.Embedding(number, config.codebook_embed_dim)
        self.shared = config.share_output_heads
        # A sum with the codebook's embedding before one shared projection would shift its logits by a constant, the
        # same at all frames. Shared heads are told by shift and scale before a nonlinearity.
        self.condition = nn.Linear(config.codebook_embed_dim, 2 * dim if self.shared else dim)
        self.norm = nn.RMSNorm(dim, eps=1e-5) if self.shared else None
        self.projections = nn.ModuleList(
            [nn.Linear(dim, config.codebook_size) for _ in range(1 if self.shared else number)]
        )

    def forward(self, answer: torch.Tensor, codebook: int) -> torch.Tensor:
        """`(B, T, D)` to `(B, T, codebook_size)`."""
        condition = self.condition(self.embed.weight[codebook])
        if not self.shared:
            return self.projections[codebook](answer + condition)
        shift, scale = condition.chunk(2)
        return self.projections[0](F.gelu(self.norm(answer) * (1 + scale) + shift))


class TRMPreTrainedModel(CheckedConfigMixin, PreTrainedModel):
    config: TRMConfig
    base_model_prefix = "trm"
    main_input_name = "text_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["TRMBlock"]

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self.halt_proj:
            init.zeros_(module.weight)
            init.constant_(module.bias, _HALT_BIAS)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=1.0 if module.padding_idx is None else module.embedding_dim**-0.5)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif module is self:
            init.trunc_normal_(self.answer_init, std=1.0)
            init.trunc_normal_(self.latent_init, std=1.0)
            if self.latent_proj is not None:
                init.zeros_(self.latent_mean)
                init.ones_(self.latent_std)


class TRMModel(TRMPreTrainedModel):
    r"""
    Recursive refinement of all frames together: an answer y and a latent z, in H cycles. Every cycle may see the codes
    that are decided so far. With a `latent_dim` the answer is read by a [`DTMHead`] in the place of heads for codes.

    A padded batch gives what its items give alone.
    """

    def __init__(self, config: TRMConfig):
        super().__init__(config)
        dim = config.audio_dim
        self.text_encoder = TRMTextEncoder(config)
        # Rotary positions tell frames apart, and this how far along each is, which also carries the pace.
        self.progress_proj = nn.Linear(dim, dim)
        self.code_embeds = nn.ModuleList(
            [nn.Embedding(config.codebook_size + 1, config.codebook_embed_dim) for _ in range(config.num_codebooks)]
        )
        self.code_proj = nn.Linear(config.codebook_embed_dim, dim, bias=False)
        self.update = UPDATE_CLASSES[config.update](config)
        self.head = self.latent_proj = None
        if config.latent_dim is None:
            self.head = TRMCodeHead(config)
        else:
            # Latents are modelled at mean 0 and variance 1; both are of the data, and told by training.
            self.latent_proj = nn.Linear(dim, config.latent_dim)
            self.register_buffer("latent_mean", torch.zeros(config.latent_dim))
            self.register_buffer("latent_std", torch.ones(config.latent_dim))
        self.halt_proj = nn.Linear(dim, 1)
        # Where the recursion begins is learnt in the document's form; in TRM's it is drawn once and stays.
        learnt = config.update == "document"
        for name in ("answer_init", "latent_init"):
            value = torch.zeros(dim)
            if learnt:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.gradient_checkpointing = False
        self.post_init()

    def encode_text(self, text_ids: torch.Tensor, speaker_ids: torch.Tensor) -> torch.Tensor:
        """
        Args:
            text_ids (`torch.LongTensor` of shape `(B, L)`): characters, 0 at padding.
            speaker_ids (`torch.LongTensor` of shape `(B,)`): voices.

        Returns:
            `torch.Tensor` of shape `(B, L, text_dim)`: what the cycles look at, computed once an utterance.

        Raises:
            ValueError: for a text longer than `max_text_length`, or a row without a character.
        """
        if text_ids.shape[1] > self.config.max_text_length:
            raise ValueError(
                f"`text_ids` must have at most {self.config.max_text_length} characters, but got {text_ids.shape[1]}."
            )
        if not bool((text_ids != 0).any(dim=1).all()):
            raise ValueError("`text_ids` must hold a character in each row, but one has padding alone.")
        return self.text_encoder(text_ids, speaker_ids)

    def begin(self, audio_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer and latent `(B, T, D)` before the first cycle, for valid frames `(B, T)`."""
        shape = (*audio_mask.shape, -1)
        return self.answer_init.expand(shape), self.latent_init.expand(shape)

    def cycle(
        self,
        answer: torch.Tensor,
        latent: torch.Tensor,
        codes: torch.Tensor | None,
        context: torch.Tensor,
        text_mask: torch.Tensor,
        audio_mask: torch.Tensor,
    ) -> TRMOutput:
        """
        One cycle: L updates of the latent, one of the answer.

        Args:
            answer (`torch.Tensor` of shape `(B, T, D)`), latent (`torch.Tensor` of shape `(B, T, D)`): so far.
            codes (`torch.LongTensor` of shape `(B, K, T)`, *optional*):
                Decided codes, `config.mask_code` where none is decided; `None`: none at all.
            context (`torch.Tensor` of shape `(B, L, text_dim)`): of [`~TRMModel.encode_text`].
            text_mask (`torch.BoolTensor` of shape `(B, L)`), audio_mask (`torch.BoolTensor` of shape `(B, T)`):
                `True` at valid places.

        Raises:
            ValueError: for more frames than `max_audio_frames`, and codes of another shape.
        """
        inputs = self._frame_inputs(audio_mask) + self._embed_codes(codes, audio_mask)
        places = shared_places(audio_mask, text_mask) if self.config.align_text else None
        around = (context, text_mask, audio_mask, places)
        answer, latent = self.update(answer, latent, inputs.to(context.dtype), *around)
        valid = audio_mask[..., None].to(answer.dtype)
        pooled = (answer * valid).sum(dim=1) / valid.sum(dim=1)
        return TRMOutput(answer, latent, self.halt_proj(pooled)[:, 0])

    def forward(
        self,
        text_ids: torch.Tensor,
        speaker_ids: torch.Tensor,
        audio_mask: torch.Tensor,
        codes: torch.Tensor | None = None,
        num_cycles: int | None = None,
        state: tuple[torch.Tensor, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> TRMOutput | tuple:
        """
        All cycles over the same codes. With `update="recursive"` the gradient flows through the last alone.

        Args:
            text_ids (`torch.LongTensor` of shape `(B, L)`): characters, 0 at padding.
            speaker_ids (`torch.LongTensor` of shape `(B,)`): voices.
            audio_mask (`torch.BoolTensor` of shape `(B, T)`): `True` at valid frames.
            codes (`torch.LongTensor` of shape `(B, K, T)`, *optional*): as in [`~TRMModel.cycle`].
            num_cycles (`int`, *optional*): H; that of the configuration by default.
            state (`tuple` of two `torch.Tensor` of shape `(B, T, D)`, *optional*): answer and latent to go on from.

        Raises:
            ValueError: as in [`~TRMModel.encode_text`] and [`~TRMModel.cycle`], and for codes that no codebook has.
        """
        number = self.config.h_cycles if num_cycles is None else num_cycles
        if number < 1:
            raise ValueError(f"`num_cycles` must be at least 1, but got {number}.")
        if codes is not None:
            # Once, and not in each cycle: it waits for the device.
            low, high = (int(bound) for bound in codes.aminmax())
            if low < 0 or high > self.config.mask_code:
                raise ValueError(f"`codes` must lie in [0, {self.config.mask_code}], but got {low} to {high}.")
        context, text_mask = self.encode_text(text_ids, speaker_ids), text_ids != 0
        answer, latent = self.begin(audio_mask) if state is None else state
        for i in range(number):
            through = self.config.update == "document" or i == number - 1
            with torch.set_grad_enabled(torch.is_grad_enabled() and through):
                output = self.cycle(answer, latent, codes, context, text_mask, audio_mask)
            answer, latent = output.answer, output.latent
        return output if return_dict else output.to_tuple()

    def logits(self, answer: torch.Tensor, codebook: int) -> torch.Tensor:
        """Logits `(B, T, codebook_size)` of a codebook, of an answer `(B, T, D)`."""
        return self.head(answer, codebook)

    def mean_latents(self, answer: torch.Tensor) -> torch.Tensor:
        """
        The mean of the latents, `(B, T, M)` at mean 0 and variance 1, of an answer `(B, T, D)`: what a [`DTMHead`]
        starts from in the place of a backbone's velocity.
        """
        return self.latent_proj(answer)

    def _frame_inputs(self, audio_mask: torch.Tensor) -> torch.Tensor:
        frames = audio_mask.shape[1]
        if frames > self.config.max_audio_frames:
            raise ValueError(
                f"`audio_mask` must have at most {self.config.max_audio_frames} frames, but got {frames}."
            )
        places = torch.arange(frames, device=audio_mask.device) / audio_mask.sum(dim=1, keepdim=True).clamp(min=1)
        # A thousandth of the way is what neighbouring sinusoids tell apart.
        return self.progress_proj(sinusoids(1000 * places, self.config.audio_dim).to(self.progress_proj.weight.dtype))

    def _embed_codes(self, codes: torch.Tensor | None, audio_mask: torch.Tensor) -> torch.Tensor:
        config = self.config
        if codes is None:
            shape = (audio_mask.shape[0], config.num_codebooks, audio_mask.shape[1])
            codes = torch.full(shape, config.mask_code, device=audio_mask.device)
        if codes.shape != (audio_mask.shape[0], config.num_codebooks, audio_mask.shape[1]):
            raise ValueError(
                f"`codes` must have shape {(audio_mask.shape[0], config.num_codebooks, audio_mask.shape[1])}, but got "
                f"{tuple(codes.shape)}."
            )
        embeds = sum(embed(codes[:, k]) for k, embed in enumerate(self.code_embeds))
        return self.code_proj(embeds)


AutoConfig.register(TRMConfig.model_type, TRMConfig, exist_ok=True)
AutoModel.register(TRMConfig, TRMModel, exist_ok=True)

__all__ = ["TRMModel", "TRMPreTrainedModel"]
