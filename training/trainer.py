"""The training loop around one objective."""

import dataclasses
import json
import time
from collections import Counter
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from dtm_hf.training.arguments import TrainingConfig
from dtm_hf.training.checkpoints import best_checkpoint, checkpoint_folders, read_state, write_checkpoint
from dtm_hf.training.compilation import compile_parts
from dtm_hf.training.components import build_components
from dtm_hf.training.data.loader import build_loader
from dtm_hf.training.figures import Window, append_lines, drop_later_lines
from dtm_hf.training.objectives.conditioning import MelBatch
from dtm_hf.training.optimization import build_optimizers, build_schedules, set_schedules
from dtm_hf.training.precision import FasterFloat32
from dtm_hf.training.prompts import read_prompts, validation_rows
from dtm_hf.training.publishing import Publisher, record_training
from dtm_hf.training.samples import SpeechSamples
from dtm_hf.training.sharding import check_sharding, is_sharded, sharded_like, whole


class Trainer:
    """
    Trains what the configuration names, and writes checkpoints, logs and the finished pipeline into `output_dir`.

    Every random draw of a batch depends on the seed and on the number of that batch in the whole run alone. So a
    resumed run repeats the draws of an uninterrupted one, and two processes repeat those of one process that
    accumulates two batches.

    Args:
        config ([`TrainingConfig`]): The run. Components are built, and the newest complete checkpoint is resumed, on
            construction.

    Raises:
        ValueError: if `output_dir` holds checkpoints and `resume` is off.
    """

    def __init__(self, config: TrainingConfig):
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
        if not config.logging.resume and checkpoint_folders(self.output_dir):
            raise ValueError(
                f"`output_dir` {options.output_dir!r} holds checkpoints of another run and `resume` is off."
            )
        check_sharding(self.accelerator, config)
        set_seed(options.seed)
        self._build_model()
        self.step, self.frames = 0, 0
        self.window = Window()
        self.bad_rows: Counter = Counter()
        self.dropped: Counter = Counter()
        self.data_seed, self.loader = options.seed, None
        if config.logging.resume:
            self._resume()
        if self.loader is None:
            self.loader = self._loader(config.data.train_split, endless=True)
        # Once, and at the start: to find the sources again at each validation would ask the Hub each time.
        split = config.data.validation_split
        self.validation_loader = None if split is None else self._loader(split, endless=False)
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            if config.logging.report_to != "none":
                self.accelerator.init_trackers("dtm-hf", config=_flat(config))
        self.samples = self._build_samples() if self.accelerator.is_main_process else None
        self.publisher = None
        if config.logging.push_to_hub is not None and self.accelerator.is_main_process:
            self.publisher = Publisher(config.logging.push_to_hub, config, self.components, say=self.accelerator.print)
        self.accelerator.wait_for_everyone()

    def _build_model(self) -> None:
        options = self.config.optimization
        self.components = build_components(self.config)
        self.module = self.components.trained
        for part in (self.components.backbone, self.components.head):
            if part is not None:
                part.to(self.accelerator.device)
                if options.torch_compile:
                    compile_parts(part)
        if options.gradient_checkpointing:
            # The name of diffusers' models, and that of transformers'.
            enable = "enable_gradient_checkpointing"
            getattr(self.module, enable if hasattr(self.module, enable) else "gradient_checkpointing_enable")()
        self.module.train()
        optimizers = build_optimizers(self.module, options)
        self.schedules = build_schedules(optimizers, options)
        self.model, *self.optimizers = self.accelerator.prepare(self.module, *optimizers)
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        # 2/3: the warm-up that diffusers recommends for long runs; the decay itself caps it.
        self.ema = EMAModel(self.parameters, decay=options.ema_decay, use_ema_warmup=True)
        self.ema.to(self.accelerator.device)

    def _build_samples(self) -> SpeechSamples | None:
        logging = self.config.logging
        prompts = read_prompts(logging.sample_prompts, logging.sample_prompts_file)
        if not prompts:
            return None
        with self.averaged_weights():
            return SpeechSamples(
                self.components.pipeline(), prompts, validation_rows(self.config.data), self.output_dir / "samples"
            )

    # Data

    def _loader(self, split: str, endless: bool):
        accelerator, parts = self.accelerator, self.components
        return build_loader(
            self.config.data,
            split,
            parts.tokenizer,
            parts.feature_extractor,
            seed=self.data_seed if endless else self.config.optimization.seed,
            # Every process validates on the same batches: none has to wait for the result of another.
            rank=accelerator.process_index if endless else 0,
            world_size=accelerator.num_processes if endless else 1,
            endless=endless,
        )

    def _mel_batch(self, batch: dict) -> MelBatch:
        device, extractor = self.accelerator.device, self.components.feature_extractor
        mel = extractor.log_mel(batch["waveform"].to(device, non_blocking=True), batch["num_samples"])
        surplus = -mel.shape[1] % self.config.data.frame_multiple
        mel = torch.nn.functional.pad(mel, (0, 0, 0, surplus))
        num_frames = extractor.num_frames(batch["num_samples"])
        mask = torch.arange(mel.shape[1])[None] < num_frames[:, None]
        prompt_frames = batch["prompt_samples"] // extractor.hop_length
        return MelBatch(mel, mask.to(device), batch["text_ids"].to(device), prompt_frames.to(device))

    def _seed_draws(self, batch_number: int) -> None:
        """Draws of the batch with this number in this process: noise, times, spans, dropped conditions, dropout."""
        accelerator = self.accelerator
        number = batch_number * accelerator.num_processes + accelerator.process_index
        sequence = np.random.SeedSequence((self.config.optimization.seed, number))
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    # Loop

    def train(self) -> None:
        """Train to `max_steps`, then write the pipeline with the averaged weights into `output_dir`."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        options, logging = self.config.optimization, self.config.logging
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.accelerator.is_main_process) as progress:
            task = progress.add_task("training", total=options.max_steps, completed=self.step)
            for _ in self._steps():
                progress.update(task, completed=self.step)
                last = self.step == options.max_steps
                if self.step % logging.log_interval == 0:
                    figures = self._window_figures()
                    self._log(figures)
                    progress.update(task, description=f"loss {figures['loss']:.3f}")
                if self.samples is not None and (self.step % logging.sample_interval == 0 or last):
                    with self.averaged_weights():
                        self.samples.write(self.step, self.accelerator.trackers)
                validated = self.step % logging.eval_interval == 0 or last
                loss = self._validated() if validated else None
                if self.step % logging.save_interval == 0 or last or (validated and self._is_best(loss)):
                    self.save_checkpoint(loss)
        self._report_bad_rows()
        self.save_pipeline()
        if self.publisher is not None:
            self.publisher.close()
        self.accelerator.end_training()

    def _steps(self):
        """Take the optimizer steps; yields after each."""
        options = self.config.optimization
        if self.step >= options.max_steps:
            return
        batch_number = self.step * options.gradient_accumulation_steps
        batches = iter(self.loader)
        while self.step < options.max_steps:
            began = time.perf_counter()
            raw = next(batches)
            self.window.waited += time.perf_counter() - began
            batch = self._mel_batch(raw)
            self._count(raw, batch)
            self._seed_draws(batch_number)
            batch_number += 1
            with self.accelerator.accumulate(self.model):
                with self._precision():
                    output = self.components.objective.loss(self.model, batch)
                self.accelerator.backward(output.loss)
                if self.accelerator.sync_gradients:
                    self.grad_norm = self.accelerator.clip_grad_norm_(self.module.parameters(), options.max_grad_norm)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
            self.window.add(output)
            if not self.accelerator.sync_gradients:
                continue
            for schedule in self.schedules:
                schedule.step()
            self.ema.step(self.parameters)
            self.step += 1
            yield

    @contextmanager
    def _precision(self):
        options = self.config.optimization
        faster = self.accelerator.device.type == "cpu" and options.mixed_precision == "bf16"
        # Compiled, bfloat16 is the faster one throughout; and a recomputation in the backward pass is outside of this.
        faster = faster and not options.torch_compile and not options.gradient_checkpointing
        faster = faster and self.components.backbone.dtype == torch.float32
        with self.accelerator.autocast(), FasterFloat32() if faster else nullcontext():
            yield

    # Figures

    def _count(self, raw: dict, batch: MelBatch) -> None:
        # From the lengths, which are on the host: to sum the mask would wait for the device.
        self.window.frames += int(self.components.feature_extractor.num_frames(raw["num_samples"]).sum())
        self.window.padded_frames += batch.attention_mask.numel()
        self.bad_rows.update(raw["bad_rows"])
        self.dropped.update(raw["dropped"])
        if raw["bad_row_details"]:
            append_lines(self.output_dir / self._bad_rows_file, self.step, raw["bad_row_details"])

    def _window_figures(self) -> dict[str, float]:
        """Figures since the last log line, over all processes."""
        figures = self.window.figures(self.accelerator, self.bad_rows, self.dropped)
        self.window = Window()
        self.frames += figures.pop("frames")
        return figures | {
            "grad_norm": float(self.grad_norm),
            "learning_rate": self.schedules[0].get_last_lr()[0],
            "ema_decay": self.ema.cur_decay_value,
            "hours": self.hours,
        }

    @property
    def hours(self) -> float:
        """Hours of speech trained on up to the last log line, repeats counted."""
        extractor = self.components.feature_extractor
        return self.frames * extractor.hop_length / extractor.sampling_rate / 3600

    def _validated(self) -> float | None:
        figures = self.validate()
        self._log(figures)
        return figures.get("validation_loss")

    def _is_best(self, loss: float | None) -> bool:
        """Decided by the main process: in the others the last bit may differ."""
        decision = [False]
        if self.accelerator.is_main_process and loss is not None:
            best = best_checkpoint(self.output_dir)
            decision = [best is None or loss < read_state(best)["validation_loss"]]
        return broadcast_object_list(decision)[0]

    def validate(self) -> dict[str, float]:
        """Loss of the averaged weights on fixed batches with fixed draws."""
        if self.validation_loader is None:
            return {}
        objective, totals, count = self.components.objective, Counter(), 0
        with self.averaged_weights():
            for raw in self.validation_loader:
                if count == self.config.logging.num_validation_batches:
                    break
                batch = self._mel_batch(raw)
                generator = torch.Generator(self.accelerator.device).manual_seed(count)
                with torch.no_grad(), self._precision():
                    loss, figures = objective.loss(self.module, batch, generator)
                    figures = {"loss": loss} | figures | objective.probe(self.module, batch, generator)
                totals.update({name: float(value) for name, value in figures.items()})
                count += 1
        return {f"validation_{name}": total / max(count, 1) for name, total in totals.items()}

    @contextmanager
    def averaged_weights(self):
        """Inside, the trained network holds the averaged weights and is in evaluation mode."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.module.eval()
        try:
            yield
        finally:
            self.module.train()
            self.ema.restore(self.parameters)

    def _log(self, figures: dict[str, float]) -> None:
        if not figures or not self.accelerator.is_main_process:
            return
        append_lines(self.output_dir / "log.jsonl", self.step, [figures])
        self.accelerator.log(figures, step=self.step)

    def _report_bad_rows(self) -> None:
        for name, reasons in (("skipped", self.bad_rows), ("dropped", self.dropped)):
            if reasons:
                summary = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
                self.accelerator.print(f"Rows {name} by the main process: {summary}.")

    # State

    def save_checkpoint(self, validation_loss: float | None = None) -> None:
        """Write everything a run needs to go on; every process calls this."""
        logging = self.config.logging

        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder))
            shadow = {str(i): p.contiguous() for i, p in enumerate(whole(self.ema.shadow_params))}
            if self.accelerator.is_main_process:
                save_file(shadow, folder / "ema.safetensors")
            (folder / self._rank_file).write_text(json.dumps(self._rank_state()))

        state = {
            "step": self.step,
            "frames": self.frames,
            "ema_step": self.ema.optimization_step,
            "data_seed": self.data_seed,
            "num_processes": self.accelerator.num_processes,
            "validation_loss": validation_loss,
        }
        write_checkpoint(
            self.output_dir,
            self.step,
            write,
            state,
            logging.save_total_limit,
            keep_every=logging.keep_every,
            process=self.accelerator,
        )
        if self.publisher is not None:
            results = None if validation_loss is None else {"validation_loss": validation_loss}
            with self.averaged_weights():
                self.publisher.submit(self.step, self.hours, results)

    @property
    def _rank_file(self) -> str:
        return f"process-{self.accelerator.process_index}.json"

    @property
    def _bad_rows_file(self) -> str:
        return f"bad_rows-{self.accelerator.process_index}.jsonl"

    def _rank_state(self) -> dict:
        """What differs between the processes: the position in the data, and the figures of an unfinished window."""
        return {
            "data": self.loader.state_dict(),
            "bad_rows": self.bad_rows,
            "dropped": self.dropped,
            "window": self.window.state_dict(),
        }

    def _resume(self) -> None:
        folders = checkpoint_folders(self.output_dir)
        if not folders:
            return
        checkpoint, device = folders[-1], self.accelerator.device
        self.accelerator.load_state(str(checkpoint))
        state = read_state(checkpoint)
        self.step, self.frames, self.data_seed = state["step"], state["frames"], state["data_seed"]
        # Not onto the device at once: safetensors refuses the `cpu:0` of several processes on a CPU.
        shadow = load_file(checkpoint / "ema.safetensors")
        averaged = [shadow[str(i)].to(device) for i in range(len(shadow))]
        self.ema.shadow_params = sharded_like(averaged, self.parameters)
        self.ema.optimization_step = state["ema_step"]
        set_schedules(self.schedules, self.step)
        self._resume_data(checkpoint, state["num_processes"])
        if self.accelerator.is_main_process:
            drop_later_lines(self.output_dir / "log.jsonl", self.step)
        drop_later_lines(self.output_dir / self._bad_rows_file, self.step)
        self.accelerator.print(f"Resumed from {checkpoint} at step {self.step}.")

    def _resume_data(self, checkpoint: Path, num_processes: int) -> None:
        try:
            if num_processes != self.accelerator.num_processes:
                raise ValueError(f"It is of {num_processes} processes, this run has {self.accelerator.num_processes}.")
            rank_state = json.loads((checkpoint / self._rank_file).read_text())
            self.loader = self._loader(self.config.data.train_split, endless=True)
            self.loader.load_state_dict(rank_state["data"])
        except ValueError as error:
            self.loader = None
            # Who moves a run to other machines wants it to go on, but not with the rows it began with.
            self.data_seed = self.config.optimization.seed + self.step
            self.accelerator.print(f"The data is read in a new order, for the checkpoint does not fit: {error}")
            return
        self.bad_rows, self.dropped = Counter(rank_state["bad_rows"]), Counter(rank_state["dropped"])
        self.window = Window.from_state_dict(rank_state["window"], self.accelerator.device)

    def save_pipeline(self) -> None:
        """Write the pipeline with the averaged weights."""
        averaged = whole(self.ema.shadow_params)
        if not self.accelerator.is_main_process:
            return
        # A network that FSDP has taken apart cannot be saved: the weights go into a new one.
        components = build_components(self.config) if is_sharded(self.parameters) else self.components
        trained = [p for p in components.trained.parameters() if p.requires_grad]
        for parameter, average in zip(trained, averaged, strict=True):
            parameter.data.copy_(average)
        components.backbone.freeze()
        record_training(components, self.config, self.step, self.hours)
        components.pipeline().save_pretrained(str(self.output_dir))


def _flat(config: TrainingConfig) -> dict[str, object]:
    """Fields that a tracker can show."""
    values = {name: value for section in dataclasses.asdict(config).values() for name, value in section.items()}
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in values.items()
    }
