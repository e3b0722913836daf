"""
Trains a flow head on a frozen backbone, or a backbone from scratch.

    accelerate launch training/train.py --config training/configs/dtm_tiny.yaml [--field value ...]
"""

import dataclasses
import json
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dtm_hf.training.arguments import TrainingConfig
from dtm_hf.training.parsing import parse_config


class Trainer:
    """
    The training loop around one objective.

    Args:
        config ([`TrainingConfig`]): The run. Components are built, and a checkpoint is resumed, on construction.
    """

    def __init__(self, config: TrainingConfig):
        import torch
        from accelerate import Accelerator
        from accelerate.utils import ProjectConfiguration, set_seed
        from diffusers.training_utils import EMAModel

        from dtm_hf.training.checkpoints import checkpoint_folders
        from dtm_hf.training.components import build_components
        from dtm_hf.training.optimization import build_optimizers, build_schedules

        self.config = config
        options = config.optimization
        self.output_dir = Path(options.output_dir)
        self.accelerator = Accelerator(
            mixed_precision=options.mixed_precision,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            log_with=None if config.logging.report_to == "none" else config.logging.report_to,
            project_config=ProjectConfiguration(
                project_dir=str(self.output_dir), logging_dir=str(self.output_dir / "logs")
            ),
            step_scheduler_with_optimizer=False,
        )
        set_seed(options.seed)
        self.components = build_components(config)
        for part in (self.components.backbone, self.components.head):
            if part is not None:
                part.to(self.accelerator.device)
        if options.gradient_checkpointing:
            # The name of diffusers' models, and that of transformers'.
            trained = self.components.trained
            enable = "enable_gradient_checkpointing"
            getattr(trained, enable if hasattr(trained, enable) else "gradient_checkpointing_enable")()
        if options.torch_compile:
            from dtm_hf.training.compilation import compile_parts

            for part in (self.components.backbone, self.components.head):
                if part is not None:
                    compile_parts(part)
        self.components.trained.train()
        self.module = self.components.trained
        optimizers = build_optimizers(self.module, options)
        self.schedules = build_schedules(optimizers, options)
        self.model, *self.optimizers = self.accelerator.prepare(self.module, *optimizers)
        # 2/3: the warm-up that diffusers recommends for long runs; the decay itself caps it.
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.ema = EMAModel(self.parameters, decay=options.ema_decay, use_ema_warmup=True)
        self.ema.to(self.accelerator.device)
        self.step, self.frames = 0, 0
        self.bad_rows: dict[str, int] = {}
        self.torch = torch
        if config.logging.resume:
            self._resume()
        elif checkpoint_folders(self.output_dir):
            raise ValueError(
                f"`output_dir` {options.output_dir!r} holds checkpoints of another run and `resume` is off."
            )
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            if config.logging.report_to != "none":
                self.accelerator.init_trackers("dtm-hf", config=_flat(config))

    # Data

    def _loader(self, split: str, endless: bool):
        from torch.utils.data import DataLoader

        from dtm_hf.training.data import FrameBatches, load_stream

        stream = load_stream(self.config.data, split)
        accelerator = self.accelerator
        if endless and accelerator.num_processes > 1:
            from datasets.distributed import split_dataset_by_node

            stream = split_dataset_by_node(stream, accelerator.process_index, accelerator.num_processes)
        parts = self.components
        # A resumed run reads the shards in another order rather than the same rows again.
        seed = self.config.optimization.seed + (self.step if endless else 0)
        batches = FrameBatches(stream, self.config.data, parts.tokenizer, parts.feature_extractor, seed, endless)
        workers = self.config.data.num_workers if endless else 0
        return DataLoader(batches, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)

    def _mel_batch(self, batch: dict):
        from dtm_hf.training.objectives.conditioning import MelBatch

        torch, device, extractor = self.torch, self.accelerator.device, self.components.feature_extractor
        mel = extractor.log_mel(batch["waveform"].to(device), batch["num_samples"])
        surplus = -mel.shape[1] % self.config.data.frame_multiple
        mel = torch.nn.functional.pad(mel, (0, 0, 0, surplus))
        num_frames = extractor.num_frames(batch["num_samples"]).to(device)
        mask = torch.arange(mel.shape[1], device=device)[None] < num_frames[:, None]
        prompt_frames = (batch["prompt_samples"] // extractor.hop_length).to(device)
        return MelBatch(mel, mask, batch["text_ids"].to(device), prompt_frames)

    # Loop

    def train(self) -> None:
        """Train to `max_steps`, then write the pipeline with the averaged weights into `output_dir`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        options, logging = self.config.optimization, self.config.logging
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        if self.step < options.max_steps:
            with Progress(*columns, disable=not self.accelerator.is_main_process) as progress:
                task = progress.add_task("training", total=options.max_steps, completed=self.step)
                for figures in self._steps():
                    progress.update(task, completed=self.step, description=f"loss {figures['loss']:.3f}")
                    if self.step % logging.eval_interval == 0 or self.step == options.max_steps:
                        self._log(self.validate())
                    if self.step % logging.save_interval == 0 or self.step == options.max_steps:
                        self.save_checkpoint()
        self.save_pipeline()
        self.accelerator.end_training()

    def _steps(self):
        """Optimizer steps; yields the figures of each."""
        options, log_interval = self.config.optimization, self.config.logging.log_interval
        window, since = [], time.perf_counter()
        waited, frames, padded = 0.0, 0, 0
        loader = iter(self._loader(self.config.data.train_split, endless=True))
        while self.step < options.max_steps:
            began = time.perf_counter()
            raw = next(loader, None)
            if raw is None:
                raise ValueError(f"`dataset` {self.config.data.dataset!r} holds no rows.")
            waited += time.perf_counter() - began
            for reason, count in raw["bad_rows"].items():
                self.bad_rows[reason] = self.bad_rows.get(reason, 0) + count
            batch = self._mel_batch(raw)
            frames += int(batch.attention_mask.sum())
            padded += batch.attention_mask.numel()
            with self.accelerator.accumulate(self.model):
                with self._precision():
                    loss, figures = self.components.objective.loss(self.model, batch)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(self.module.parameters(), options.max_grad_norm)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            window.append(loss.detach())
            if not self.accelerator.sync_gradients:
                continue
            for schedule in self.schedules:
                schedule.step()
            self.ema.step(self.parameters)
            self.step += 1
            figures = {"loss": float(window[-1])} | {name: float(value) for name, value in figures.items()}
            if self.step % log_interval == 0:
                seconds = time.perf_counter() - since
                figures |= {
                    "loss": float(self.torch.stack(window).mean()),
                    "grad_norm": float(norm),
                    "learning_rate": self.schedules[0].get_last_lr()[0],
                    "frames_per_second": frames / seconds,
                    "padding_share": 1 - frames / padded,
                    "data_wait_share": waited / seconds,
                    "ema_decay": self.ema.cur_decay_value,
                    "bad_rows": sum(self.bad_rows.values()),
                }
                self.frames += frames
                extractor = self.components.feature_extractor
                figures["hours"] = self.frames * extractor.hop_length / extractor.sampling_rate / 3600
                self._log(figures)
                window, since, waited, frames, padded = [], time.perf_counter(), 0.0, 0, 0
            yield figures

    @contextmanager
    def _precision(self):
        from dtm_hf.training.precision import FasterFloat32

        options = self.config.optimization
        on_cpu = self.accelerator.device.type == "cpu" and options.mixed_precision == "bf16"
        # Compiled, bfloat16 is the faster one throughout.
        with self.accelerator.autocast(), FasterFloat32() if on_cpu and not options.torch_compile else nullcontext():
            yield

    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on fixed batches with fixed draws."""
        split = self.config.data.validation_split
        if split is None:
            return {}
        torch, totals, count = self.torch, {}, 0
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.module.eval()
        try:
            for raw in self._loader(split, endless=False):
                if count == self.config.logging.num_validation_batches:
                    break
                batch = self._mel_batch(raw)
                generator = torch.Generator(self.accelerator.device).manual_seed(count)
                with torch.no_grad(), self._precision():
                    loss, figures = self.components.objective.loss(self.module, batch, generator)
                    figures = {"loss": loss} | figures
                    figures |= self.components.objective.probe(self.module, batch, generator)
                for name, value in figures.items():
                    totals[name] = totals.get(name, 0.0) + float(value)
                count += 1
        finally:
            self.module.train()
            self.ema.restore(self.parameters)
        return {f"validation_{name}": total / max(count, 1) for name, total in totals.items()}

    def _log(self, figures: dict[str, float]) -> None:
        if not figures or not self.accelerator.is_main_process:
            return
        with open(self.output_dir / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step} | figures) + "\n")
        self.accelerator.log(figures, step=self.step)

    # State

    def save_checkpoint(self) -> None:
        """Write everything a run needs to go on."""
        from safetensors.torch import save_file

        from dtm_hf.training.checkpoints import write_checkpoint

        if not self.accelerator.is_main_process:
            return

        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder))
            shadow = {str(i): p.contiguous() for i, p in enumerate(self.ema.shadow_params)}
            save_file(shadow, folder / "ema.safetensors")

        state = {
            "step": self.step,
            "frames": self.frames,
            "ema_step": self.ema.optimization_step,
            "bad_rows": self.bad_rows,
        }
        write_checkpoint(self.output_dir, self.step, write, state, keep=self.config.logging.save_total_limit)

    def _resume(self) -> None:
        from safetensors.torch import load_file

        from dtm_hf.training.checkpoints import checkpoint_folders, read_state
        from dtm_hf.training.optimization import set_schedules

        folders = checkpoint_folders(self.output_dir)
        if not folders:
            return
        self.accelerator.load_state(str(folders[-1]))
        state = read_state(folders[-1])
        self.step, self.frames, self.bad_rows = state["step"], state["frames"], state["bad_rows"]
        shadow = load_file(folders[-1] / "ema.safetensors", device=str(self.accelerator.device))
        self.ema.shadow_params = [shadow[str(i)] for i in range(len(shadow))]
        self.ema.optimization_step = state["ema_step"]
        set_schedules(self.schedules, self.step)
        self.accelerator.print(f"Resumed from {folders[-1]} at step {self.step}.")

    def save_pipeline(self) -> None:
        """Write the pipeline with the averaged weights."""
        if not self.accelerator.is_main_process:
            return
        self.ema.copy_to(self.parameters)
        self.components.backbone.freeze()
        self.components.pipeline().save_pretrained(str(self.output_dir))


def _flat(config: TrainingConfig) -> dict[str, object]:
    """Fields that a tracker can show."""
    values = {name: value for section in dataclasses.asdict(config).values() for name, value in section.items()}
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in values.items()
    }


def main(argv: list[str] | None = None) -> None:
    try:
        config = parse_config(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        raise SystemExit(f"train.py: {error}") from None
    Trainer(config).train()


if __name__ == "__main__":
    main()
