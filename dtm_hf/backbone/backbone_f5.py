"""`F5Backbone`: f5_tts's own DiT, unmodified and frozen, as a diffusers model."""

import threading
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from dtm_hf.f5_import import import_f5
from dtm_hf.validation import Blocks, CheckedConfigMixin, Depth, Factor, MelBins, Seconds, Share, Tokens, Width

from .aligned_text import TextAlignment, check_alignment, check_durations, embed_tokens, repeat_tokens
from .checks import check_inputs, check_num_steps
from .contract import Branch, F5BackboneOutput, F5TextEmbeds
from .dit import DIT_SIZES, make_dit
from .f5_checkpoint import read_f5_checkpoint
from .fingerprint import weights_fingerprint
from .low_rank import MAX_STEPS

# f5_tts/model/cfm.py: `CFM.sample` clamps durations to this many frames.
MAX_FRAMES = 65536
_MAKING_SLOTS = threading.Lock()


class F5Backbone(CheckedConfigMixin, ModelMixin, ConfigMixin):
    r"""
    The F5-TTS diffusion transformer ([F5-TTS](https://huggingface.co/papers/2410.06885)), frozen.

    Holds f5_tts's own `DiT` without changing it: features are read by a hook on `proj_out`, and the text embedding is
    handed over through the DiT's own cache. Parameters have `requires_grad=False` and the module stays in eval mode,
    also when a parent calls `.train()`; only [`~F5Backbone.unfreeze`], to train one from scratch, lifts that.

    A padded batch gives what its items give alone: padded keys are masked in attention, and the text encoder, whose
    global response normalisation sees the number of filler tokens, runs per distinct length.

    Args:
        dim (`int`, defaults to 1024): Width D of the features.
        depth (`int`, defaults to 22): Number of DiT blocks.
        heads (`int`, defaults to 16): Attention heads.
        dim_head (`int`, defaults to 64): Width of one head.
        ff_mult (`int`, defaults to 2): Feed-forward expansion.
        mel_dim (`int`, defaults to 100): Mel bins M.
        text_num_embeds (`int`, defaults to 2545): Lines of the vocabulary, without the filler token.
        text_dim (`int`, defaults to 512): Width of the text embedding.
        text_mask_padding (`bool`, defaults to `True`): `True` for v1 models, `False` for the first release.
        text_embedding_average_upsampling (`bool`, defaults to `False`): Spread the text evenly over the frames.
        qk_norm (`str`, *optional*): `"rms_norm"` or `None`.
        conv_layers (`int`, defaults to 4): ConvNeXt blocks of the text encoder.
        pe_attn_head (`int`, *optional*): Heads that get rotary positions; `None` for all (v1), 1 for the first
            release.
        dropout (`float`, defaults to 0.1): Dropout of the blocks; only active while unfrozen.
        name (`str`, defaults to `"F5TTS_v1_Base"`): What this backbone is, recorded by heads trained on it.
        revision (`str`, *optional*): Version of its weights, recorded likewise.
        license (`str`, defaults to `"cc-by-nc-4.0"`): Licence of the weights; a head trained on them inherits it.
        training_data (`str`, *optional*): What it was trained on, for the model card.
        step_counts (`list[int]`, *optional*): Of a distilled student, the numbers of steps it serves, 1-4. With
            several it is told the number, by a vector added to the embedding of t.
        text_alignment (`str`, defaults to `"uniform"`):
            `"uniform"` hands the text over as F5-TTS does. With `"durations"` each token, after F5's text encoder, is
            repeated for the frames that it lasts: the DiT need not find out where a word is. Such a backbone must be
            told `durations` with every text.
        max_seconds (`float`, *optional*): What prompt and target may last together: about the longest clips that it
            was trained on. A pipeline cuts longer text; by default as F5-TTS does.
        adapted_until (`float`, *optional*): Of a student that is one near the noise alone: the time t from which on
            its teacher runs, unchanged.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["DiTBlock"]

    @register_to_config
    def __init__(
        self,
        dim: Width = 1024,
        depth: Depth = 22,
        heads: Depth = 16,
        dim_head: Width = 64,
        ff_mult: Factor = 2,
        mel_dim: MelBins = 100,
        text_num_embeds: Tokens = 2545,
        text_dim: Width = 512,
        text_mask_padding: bool = True,
        text_embedding_average_upsampling: bool = False,
        qk_norm: Literal["rms_norm"] | None = None,
        conv_layers: Blocks = 4,
        pe_attn_head: Depth | None = None,
        dropout: Share = 0.1,
        name: str = "F5TTS_v1_Base",
        revision: str | None = None,
        license: str = "cc-by-nc-4.0",
        training_data: str | None = None,
        step_counts: list[int] | None = None,
        text_alignment: TextAlignment = "uniform",
        max_seconds: Seconds | None = None,
        adapted_until: Share | None = None,
    ):
        super().__init__()
        check_alignment(text_alignment, text_embedding_average_upsampling, text_mask_padding)
        if step_counts is not None and not (step_counts and all(1 <= count <= MAX_STEPS for count in step_counts)):
            raise ValueError(f"`step_counts` must be numbers of steps from 1 to {MAX_STEPS}, but got {step_counts}.")
        sizes = {name: value for name, value in locals().items() if name in DIT_SIZES}
        self.dit = make_dit(**sizes)
        # What runs near the noise, in the place of the one that is named first.
        self.early = None if adapted_until is None else make_dit(**sizes)
        self.num_steps_embed = None
        if step_counts is not None and len(step_counts) > 1:
            self.num_steps_embed = nn.Embedding(MAX_STEPS, dim)
            nn.init.zeros_(self.num_steps_embed.weight)
        self._frozen = True
        self._fingerprint: tuple[tuple, str] | None = None
        self.requires_grad_(False)
        self.eval()

    def _apply(self, fn, recurse: bool = True) -> "F5Backbone":
        dtype = self.dit.proj_out.weight.dtype
        super()._apply(fn, recurse)
        self._restore_buffers(dtype)
        return self

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "F5Backbone":
        backbone = super().from_pretrained(*args, **kwargs)
        backbone._restore_buffers(torch.float32)
        return backbone

    def _restore_buffers(self, dtype: torch.dtype) -> None:
        """
        Keep the rotary frequencies in float32, and the text positions in the dtype of the weights.

        In bfloat16 the frame numbers that x_transformers multiplies with the frequencies are rounded to eight bits:
        from frame 256 on, neighbours share a position. The text positions are no part of a checkpoint, so loading
        does not convert them; coming from another `dtype` they are computed anew, since bfloat16 would leave them
        rounded.
        """
        for dit in filter(None, (self.dit, self.early)):
            self._restore_buffers_of(dit, dtype)

    def _restore_buffers_of(self, dit: nn.Module, dtype: torch.dtype) -> None:
        rotary, text = dit.rotary_embed, dit.text_embed
        if rotary.inv_freq.dtype != torch.float32:
            exponent = torch.arange(0, 2 * len(rotary.inv_freq), 2, device=rotary.inv_freq.device).float()
            rotary.inv_freq = 10000.0 ** -(exponent / (2 * len(rotary.inv_freq)))
        weight = dit.proj_out.weight
        if text.extra_modeling and weight.dtype != dtype:
            precompute = import_f5("f5_tts.model.modules", chinese=False).precompute_freqs_cis
            text.freqs_cis = precompute(self.config.text_dim, text.precompute_max_pos).to(weight)

    # Frozen means frozen

    def train(self, mode: bool = True) -> "F5Backbone":
        return super().train(mode and not self._frozen)

    def unfreeze(self) -> "F5Backbone":
        """Make the parameters trainable, to train a backbone from scratch."""
        self._frozen = False
        return self.requires_grad_(True)

    def freeze(self) -> "F5Backbone":
        """Undo [`~F5Backbone.unfreeze`]."""
        self._frozen = True
        return self.requires_grad_(False).eval()

    def enable_gradient_checkpointing(self, *args, **kwargs) -> None:
        """Recompute the blocks' activations in the backward pass (the DiT's own switch)."""
        self.dit.checkpoint_activations = True

    def disable_gradient_checkpointing(self) -> None:
        self.dit.checkpoint_activations = False

    @property
    def fingerprint(self) -> str:
        """[`weights_fingerprint`] of the backbone."""
        # Weights can be edited after the first look; torch counts the writes to each.
        state = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.parameters())
        if self._fingerprint is None or self._fingerprint[0] != state:
            self._fingerprint = (state, weights_fingerprint(self))
        return self._fingerprint[1]

    @property
    def max_frames(self) -> int:
        """The longest N that the network can run: its text encoder has so many positions."""
        return getattr(self.dit.text_embed, "precompute_max_pos", MAX_FRAMES)

    # Text

    # Called before the first `forward`, which alone would bring an offloaded backbone to the accelerator.
    @apply_forward_hook
    def encode_text(
        self,
        text_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        num_frames: int,
        with_null: bool = True,
        durations: torch.Tensor | None = None,
    ) -> F5TextEmbeds:
        """
        Embed text for both branches, once per utterance instead of once per step.

        Args:
            text_ids (`torch.LongTensor` of shape `(B, N_text)`): Token ids, padded with -1.
            attention_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): `True` at valid frames.
            num_frames (`int`): N, the number of frames of the batch.
            with_null (`bool`, defaults to `True`): `False` spares the null branch; `null` is then `cond`.
            durations (`torch.LongTensor` of shape `(B, N_text)`, *optional*):
                Frames that each token lasts, for a `text_alignment` of `"durations"`. The null branch is then zero: it
                knows neither the words nor their times.

        Raises:
            ValueError: if `durations` are missing or not asked for, or of another shape than `text_ids`.
        """
        aligned = self.config.text_alignment == "durations"
        check_durations(durations, text_ids, aligned)
        if aligned:
            cond = repeat_tokens(embed_tokens(self.dit.text_embed, text_ids), durations, num_frames)
            return F5TextEmbeds(cond=cond, null=torch.zeros_like(cond) if with_null else cond)
        cond = self._embed_text(text_ids, attention_mask, num_frames, drop_text=False)
        null = self._embed_text(text_ids, attention_mask, num_frames, drop_text=True) if with_null else cond
        return F5TextEmbeds(cond=cond, null=null)

    def _embed_text(
        self, text_ids: torch.Tensor, attention_mask: torch.Tensor | None, num_frames: int, drop_text: bool
    ) -> torch.Tensor:
        """One branch of the text, `(B, N, text_dim)`."""
        embed = self.dit.text_embed
        if attention_mask is None:
            return embed(text_ids, seq_len=num_frames, drop_text=drop_text)
        lengths = attention_mask.sum(dim=1)
        if self.training:
            # As F5-TTS trains: one pass, in which the normalisation sees the padding of the batch.
            embeds = embed(text_ids, seq_len=lengths, drop_text=drop_text)
        else:
            rows: list[torch.Tensor | None] = [None] * len(text_ids)
            for length in lengths.unique().tolist():
                index = (lengths == length).nonzero().flatten().tolist()
                # The DiT right-pads ids to the frames it is told of; ids beyond `length` are padding of longer rows.
                for i, row in zip(index, embed(text_ids[index, :length], length, drop_text), strict=True):
                    rows[i] = row
            embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return nn.functional.pad(embeds, (0, 0, 0, num_frames - embeds.shape[1]))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        cond: torch.Tensor,
        text_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        branch: Branch = "cond",
        text_embeds: F5TextEmbeds | None = None,
        drop_text: torch.Tensor | None = None,
        num_steps: torch.Tensor | int | None = None,
        durations: torch.Tensor | None = None,
        residual_layers: int = 0,
        return_dict: bool = True,
    ) -> F5BackboneOutput | tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            sample (`torch.Tensor` of shape `(B, N, M)`): X_t, the noisy log-mel.
            timestep (`float` or `torch.Tensor` of shape `()` or `(B,)`): t in [0, 1]; 0 is noise.
            cond (`torch.Tensor` of shape `(B, N, M)`): Log-mel of the prompt, zero elsewhere.
            text_ids (`torch.LongTensor` of shape `(B, N_text)`, *optional*): Token ids, padded with -1.
            attention_mask (`torch.BoolTensor` of shape `(B, N)`, *optional*): `True` at valid frames.
            branch (`str`, defaults to `"cond"`):
                `"cond"`, `"null"` (audio and text dropped, as F5's guidance does) or `"both"` (one pass over 2B rows).
            text_embeds ([`F5TextEmbeds`], *optional*): Result of [`~F5Backbone.encode_text`] in place of `text_ids`.
            drop_text (`torch.BoolTensor` of shape `(B,)`, *optional*):
                Rows of `text_ids` to drop, for training; the DiT's own switch drops the text of the whole batch.
            num_steps (`int` or `torch.LongTensor` of shape `(B,)`, *optional*):
                Steps from noise to speech in all: what a student of several `step_counts` has to know.
            durations (`torch.LongTensor` of shape `(B, N_text)`, *optional*):
                Frames that each token of `text_ids` lasts, as in [`~F5Backbone.encode_text`].
            residual_layers (`int`, defaults to 0):
                Give the residual stream before the last so many blocks as well.

        Raises:
            ValueError: for an unknown `branch`, for neither or both of `text_ids` and `text_embeds`, for a shape that
                does not fit, and for a `num_steps` that is missing or not served.
        """
        check_inputs(self.config.mel_dim, sample, cond, text_ids, attention_mask, branch, text_embeds)
        check_num_steps(self.config.step_counts, self.num_steps_embed is not None, num_steps)
        sample, cond = sample.to(self.dtype), cond.to(self.dtype)
        # The DiT embeds t in its dtype.
        timestep = torch.as_tensor(timestep, device=sample.device).to(self.dtype)
        if timestep.ndim and timestep.shape != sample.shape[:1]:
            raise ValueError(f"`timestep` must be a scalar or ({len(sample)},), but got {tuple(timestep.shape)}.")
        if attention_mask is not None and attention_mask.all():
            attention_mask = None
        if text_embeds is None:
            text_embeds = self.encode_text(text_ids, attention_mask, sample.shape[1], branch != "cond", durations)
            if drop_text is not None and self.config.text_alignment == "durations":
                cond_embeds = text_embeds.cond.masked_fill(drop_text[:, None, None], 0.0)
                text_embeds = F5TextEmbeds(cond=cond_embeds, null=text_embeds.null)
            elif drop_text is not None and drop_text.any():
                mask = None if attention_mask is None else attention_mask[drop_text]
                null = self._embed_text(text_ids[drop_text], mask, sample.shape[1], drop_text=True)
                cond_embeds = text_embeds.cond.index_put((drop_text,), null.to(text_embeds.cond.dtype))
                text_embeds = F5TextEmbeds(cond=cond_embeds, null=text_embeds.null)

        early = self.early is not None and timestep.max() < self.config.adapted_until
        dit = self.early if early else self.dit
        features, residual, thread = [], [], threading.get_ident()

        # Other threads may be in the same modules; each hook is for the call that it was made for.
        def capture(_module, inputs):
            if threading.get_ident() == thread:
                features.append(inputs[0])

        def capture_residual(_module, inputs):
            if threading.get_ident() == thread:
                residual.append(inputs[0])

        def tell_num_steps(_module, _inputs, embedded):
            if threading.get_ident() != thread:
                return embedded
            counts = torch.as_tensor(num_steps, device=embedded.device).expand(len(embedded))
            return embedded + self.num_steps_embed(counts - 1)

        handles = [dit.proj_out.register_forward_pre_hook(capture)]
        if self.num_steps_embed is not None:
            handles.append(dit.time_embed.register_forward_hook(tell_num_steps))
        if residual_layers:
            block = dit.transformer_blocks[-residual_layers]
            handles.append(block.register_forward_pre_hook(capture_residual))
        try:
            # With both slots filled the DiT reads them instead of encoding `text`. They are the thread's own, but
            # their place is made at the first use, when two threads could each make one.
            with _MAKING_SLOTS:
                dit.text_cond, dit.text_uncond = text_embeds.cond, text_embeds.null
            velocity = dit(
                x=sample,
                cond=cond,
                text=text_ids,
                time=timestep,
                mask=attention_mask,
                drop_audio_cond=branch == "null",
                drop_text=branch == "null",
                cfg_infer=branch == "both",
                cache=True,
            )
        finally:
            for handle in handles:
                handle.remove()
            dit.clear_cache()
        if not return_dict:
            return features[0], velocity
        return F5BackboneOutput(features[0], velocity, residual[0] if residual else None)

    @classmethod
    def from_f5_checkpoint(
        cls,
        checkpoint: str | Path,
        vocab: Any = None,
        variant: str | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        license: str = "cc-by-nc-4.0",
        use_ema: bool = True,
        **hub,
    ) -> "F5Backbone":
        """
        Load an official F5-TTS checkpoint.

        Args:
            checkpoint (`str` or `Path`): `.safetensors` or `.pt` file, or `hf://org/repo/path/in/repo`.
            vocab (`str`, `Path` or [`F5Tokenizer`], *optional*): Vocabulary; f5_tts's own by default.
            variant (`str`, *optional*):
                `"v1_base"`, `"v1_small"`, `"base"` or `"small"`; by default told by the path, for `base` and `v1_base`
                have the same shapes, else v1.
            revision (`str`, *optional*): Hub revision of the file; recorded in the backbone.
            dtype (`torch.dtype`, *optional*): Of the parameters; that of the file by default.
            license (`str`): Licence of the weights. Official ones are CC-BY-NC-4.0.
            use_ema (`bool`, defaults to `True`): Take the averaged weights where a file holds others too.
            hub: `cache_dir`, `token`, `local_files_only` as in `transformers.utils.cached_file`.

        Raises:
            ValueError: for a wrong `variant`, a damaged file, or missing, unexpected or misshapen weights, by name.
        """
        checkpoint = read_f5_checkpoint(checkpoint, vocab, variant, use_ema=use_ema, revision=revision, **hub)
        with torch.device("meta"):
            checkpoint.check_fits(cls(**checkpoint.config).dit.state_dict())
        backbone = cls(**checkpoint.config, license=license)
        backbone.dit.load_state_dict(checkpoint.state_dict)
        # Not diffusers' own `to`, which warns of any type that is named.
        return nn.Module.to(backbone, dtype or checkpoint.state_dict["proj_out.weight"].dtype)
