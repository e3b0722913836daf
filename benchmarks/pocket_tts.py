"""
TRM's continuous mode against Pocket TTS, by transformers' own classes: of as many parameters, trained on the same
latents of the same codec for as many steps of the same batches, and judged on the same sentences at their recordings'
own lengths. One speaks all frames together in H cycles and S head calls, the other frame after frame.

    accelerate launch training/train.py --config training/configs/trm_latents_tiny.yaml --max_steps 4000
    python benchmarks/pocket_tts.py corpus/closed-1v corpus/closed-1v-codes runs/trm_latents_tiny runs/pocket_tiny \
        --config training/configs/trm_latents_tiny.yaml --max_steps 4000

What stands behind `--config` is that of the run of TRM. A Pocket TTS that is in its folder already is only judged.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from transformers import PocketTTSConfig, PocketTTSForConditionalGeneration
from trm_codes import Judges

from dtm_hf import TRMPipeline
from dtm_hf.codec.mimi import decode_latents, num_frames
from dtm_hf.evaluation.sets import load_set
from dtm_hf.training.systems import build_task, parse_config

LAYERS, HEADS = 4, 4
ARMS = ((1, 0), (1, 4), (4, 0), (4, 4))


def pocket_tts(vocab_size: int, latent_dim: int, parameters: int) -> PocketTTSForConditionalGeneration:
    """A new one of about so many parameters: of all widths that four heads share, the nearest."""

    def build(width: int) -> PocketTTSForConditionalGeneration:
        special = ("audio_prompt_token_id", "audio_latent_token_id", "audio_prompt_bos_token_id", "audio_bos_token_id")
        config = PocketTTSConfig(
            vocab_size=vocab_size + len(special),
            **{name: vocab_size + i for i, name in enumerate(special)},
            pad_token_id=0,
            hidden_size=width,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * width,
            latent_dim=latent_dim,
            # Latents come at mean 0 and variance 1.
            latent_stats_ema_steps=0,
            flow_head_config={"hidden_size": width, "num_hidden_layers": 3, "latent_dim": latent_dim}
            | {"condition_dim": width},
        )
        return PocketTTSForConditionalGeneration(config)

    with torch.device("meta"):
        widths = range(8 * HEADS, 129 * HEADS, 2 * HEADS)
        width = min(widths, key=lambda width: abs(build(width).num_parameters() - parameters))
    return build(width)


def training_inputs(config: PocketTTSConfig, batch) -> dict[str, torch.Tensor]:
    """Of a [`LatentBatch`]: text, then the beginning of the audio, then a place for each frame; padding behind."""
    rows = []
    for text, mask in zip(batch.text_ids, batch.audio_mask, strict=True):
        frames = text.new_full((int(mask.sum()),), config.audio_latent_token_id)
        rows.append(torch.cat([text[text != 0], text.new_tensor([config.audio_bos_token_id]), frames]))
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {
        "input_ids": ids,
        "attention_mask": ids != 0,
        "labels": batch.latents,
        "labels_mask": batch.audio_mask.long(),
    }


def train(model: PocketTTSForConditionalGeneration, argv: list[str]) -> None:
    """As many steps of the same batches as the configuration has, with its learning rate."""
    config = parse_config([*argv, "--objective", "trm_latents"])
    task, options = build_task(config), config.optimization
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.place(device)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=options.weight_decay)

    def rate(step: int) -> float:
        return min(1, (step + 1) / max(options.warmup_steps, 1)) * (1 + np.cos(np.pi * step / options.max_steps)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    model.train()
    batches = iter(task.loader("train", seed=options.seed, rank=0, world_size=1, endless=True))
    for step in range(1, options.max_steps + 1):
        loss = model(**training_inputs(model.config, task.batch(next(batches), device))).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        schedule.step()
        if step % config.logging.log_interval == 0:
            print(f"step {step}: loss {float(loss):.4f}", flush=True)
    model.cpu()


@torch.no_grad()
def speak(model: PocketTTSForConditionalGeneration, text_ids: list[int], frames: int, generator) -> torch.Tensor:
    """Latents `(M, F)`, normalised, a frame after the other, each by one step of its flow head, as it is released."""
    ids, latents, cache, given = torch.tensor([[*text_ids, model.config.audio_bos_token_id]]), [], None, None
    for _ in range(frames):
        output = model(input_ids=ids, audio_latents=given, past_key_values=cache, use_cache=True)
        cache, noise = output.past_key_values, torch.randn(1, model.config.latent_dim, generator=generator)
        latent = model.sample_latent(output.last_hidden_state[:, -1], 0.8 * noise, 1)
        latents.append(latent)
        ids, given = torch.tensor([[model.config.audio_latent_token_id]]), latent[None]
    return torch.cat(latents).T


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("coded", type=Path)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("pocket", type=Path)
    parser.add_argument("--limit", type=int, default=100)
    given, argv = parser.parse_known_args()
    pipe = TRMPipeline.from_pretrained(given.pipeline)
    pipe.set_progress_bar_config(disable=True)
    parameters = pipe.model.num_parameters() + pipe.head.num_parameters()
    if not (given.pocket / "config.json").is_file():
        model = pocket_tts(pipe.model.config.vocab_size, pipe.model.config.latent_dim, parameters)
        with torch.enable_grad():
            train(model, [*argv, "--dataset", str(given.coded)])
        model.save_pretrained(given.pocket)
    model = PocketTTSForConditionalGeneration.from_pretrained(given.pocket, dtype=torch.float32).eval()
    corpus = load_set(str(given.corpus), given.limit, "test")
    judges, rate = Judges(corpus, None), pipe.sampling_rate
    print(f"Pocket TTS {model.num_parameters():,} parameters, TRM {parameters:,}\n")
    print("| | passes | s a second | word error | mel distance |\n|---|---|---|---|---|")

    def row(name: str, passes: str, say) -> None:
        begun = time.perf_counter()
        waves = [say(item, num_frames(pipe.codec, len(item.recording))) for item in corpus.items]
        took = time.perf_counter() - begun
        print(judges.row(name, waves, passes, f"{took / (sum(map(len, waves)) / rate):.3f}"), flush=True)

    def by_pocket(item, frames: int) -> np.ndarray:
        (prepared,) = pipe.prepare(item.text, duration_s=frames / 12.5)
        latents = speak(model, prepared.token_ids, frames, torch.Generator().manual_seed(0))
        latents = latents * pipe.model.latent_std[:, None] + pipe.model.latent_mean[:, None]
        return decode_latents(pipe.codec, [latents])[0].numpy()

    row("recordings", "", lambda item, _: item.recording)
    row("Pocket TTS", "one a frame", by_pocket)
    for cycles, calls in ARMS:
        options = {"num_inference_steps": cycles, "num_head_steps": calls}

        def by_trm(item, frames: int, options=options) -> np.ndarray:
            seeded = torch.Generator().manual_seed(0)
            return pipe(item.text, duration_s=frames / 12.5, generator=seeded, **options).audios[0]

        row(f"trm-{cycles}+{calls}", f"{cycles} and {calls} head calls", by_trm)


if __name__ == "__main__":
    main()
