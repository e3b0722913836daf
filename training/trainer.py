"""The training loop. What is trained is the affair of a `Task`."""

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.loop.checkpoints import (
    best_checkpoint,
    checkpoint_folders,
    decisive_figure,
    read_state,
    write_checkpoint,
)
from dtm_hf.training.loop.groups import ParameterGroup, average_gradients
from dtm_hf.training.loop.journal import Journal
from dtm_hf.training.loop.optimization import set_schedules
from dtm_hf.training.loop.publishing import Publisher
from dtm_hf.training.loop.sharding import check_sharding, is_sharded, sharded_like, whole
from dtm_hf.training.loop.task import Task
from dtm_hf.training.objectives.phases import Phase
from dtm_hf.training.systems import SYSTEMS, build_task


class Trainer:
    """
    Trains what the configuration names, and writes checkpoints, logs and the finished pipeline into `output_dir`.

    Every random draw of a batch depends on the seed and on the number of that batch in the whole run alone. So a
    resumed run repeats the draws of an uninterrupted one, and two processes repeat those of one process that
    accumulates two batches.

    Args:
        config ([`TrainingConfig`]): The run. Components are built, and the newest complete checkpoint is resumed, on
            construction.
        build (`Callable`): makes the task of the configuration; called with the run's seed set, and once more for the
            result if the network lies in shards.

    Raises:
        ValueError: if `output_dir` holds checkpoints and `resume` is off.
    """

    def __init__(self, config: TrainingConfig, build: Callable[[TrainingConfig], Task] = build_task):
        self.config, self.build = config, build
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
        check_sharding(self.accelerator, config, [name for name, system in SYSTEMS.items() if system.shardable])
        set_seed(options.seed)
        self._build_model()
        self.step = 0
        self.journal = Journal(self.accelerator, self.output_dir, self.task.unit)
        self.data_seed, self.loader = options.seed, None
        if config.logging.resume:
            self._resume()
        if self.loader is None:
            self.loader = self._loader(config.data.train_split, endless=True)
        # Once, and at the start: to find the sources again at each validation would ask the Hub each time.
        split = config.data.validation_split
        self.validation_loader = None if split is None else self._loader(split, endless=False)
        main = self.accelerator.is_main_process
        if main:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            if config.logging.report_to != "none":
                self.accelerator.init_trackers("dtm-hf", config=_flat(config))
        self.has_samples = False
        if main:
            with self.averaged_weights():
                self.has_samples = self.task.open_samples(self.output_dir / "samples")
        self.publisher = None
        if config.logging.push_to_hub is not None and main:
            self.publisher = Publisher(
                config.logging.push_to_hub, self.output_dir, self.task, say=self.accelerator.print
            )
        self.accelerator.wait_for_everyone()

    def _build_model(self) -> None:
        options = self.config.optimization
        self.task = self.build(self.config)
        self.task.place(self.accelerator.device)
        self.module = self.task.module
        self.module.train()
        self.groups = [
            ParameterGroup(name, trainable, options, self.task.learning_rate(name))
            for name, trainable in self.task.groups().items()
        ]
        optimizers = [optimizer for group in self.groups for optimizer in group.optimizers]
        if self.task.groups_are_called:
            self.model, *prepared = self.accelerator.prepare(self.module, *optimizers)
        else:
            # Registered, so that checkpoints hold it, but not wrapped: nobody calls it.
            self.model = self.accelerator.prepare_model(self.module, evaluation_mode=True)
            prepared = [self.accelerator.prepare(optimizer) for optimizer in optimizers]
        for group in self.groups:
            group.optimizers = [prepared.pop(0) for _ in group.optimizers]
            # Sharding has put others in their place.
            group.parameters = list(self.task.groups()[group.name].values())
        self.parameters = self.groups[0].parameters
        # 2/3: the warm-up that diffusers recommends for long runs; the decay itself caps it.
        self.ema = EMAModel(self.parameters, decay=options.ema_decay, use_ema_warmup=True)
        self.ema.to(self.accelerator.device)

    # Data

    def _loader(self, split: str, endless: bool):
        accelerator = self.accelerator
        return self.task.loader(
            split,
            seed=self.data_seed if endless else self.config.optimization.seed,
            # Every process validates on the same batches: none has to wait for the result of another.
            rank=accelerator.process_index if endless else 0,
            world_size=accelerator.num_processes if endless else 1,
            endless=endless,
        )

    def _seed_draws(self, batch_number: int, draw: int = 0) -> None:
        """
        Draws of the batch with this number in this process: noise, times, spans, dropped conditions, dropout.

        The first phase has the `draw` 0, what precedes all phases 1, and later phases count on from there.
        """
        accelerator = self.accelerator
        number = batch_number * accelerator.num_processes + accelerator.process_index
        entropy = (self.config.optimization.seed, number, draw) if draw else (self.config.optimization.seed, number)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

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
                    self.journal.log(self.step, figures)
                    progress.update(task, description=f"loss {figures['loss']:.3f}")
                if self.has_samples and (self.step % logging.sample_interval == 0 or last):
                    with self.averaged_weights():
                        self.task.write_samples(self.step, self.accelerator.trackers)
                validated = self.step % logging.eval_interval == 0 or last
                figure = self._validated() if validated else None
                if self.step % logging.save_interval == 0 or last or (validated and self._is_best(figure)):
                    self.save_checkpoint(figure)
        self.journal.report_rows()
        self.save_result()
        if self.publisher is not None:
            self.publisher.close()
        self.accelerator.end_training()

    def _steps(self):
        """Take the optimizer steps; yields after each."""
        options = self.config.optimization
        if self.step >= options.max_steps:
            return
        batches = iter(self.loader)
        while self.step < options.max_steps:
            first = self.step * options.gradient_accumulation_steps
            numbered = {first + i: self._next_batch(batches) for i in range(options.gradient_accumulation_steps)}
            for number, batch in numbered.items():
                self._seed_draws(number, draw=1)
                with self._precision():
                    numbered[number] = self.task.prepare(batch)
            for i, phase in enumerate(self.task.phases(self.step)):
                for number, batch in numbered.items():
                    self._seed_draws(number, draw=i + 1 if i else 0)
                    self._descend(phase, batch)
            for group in self.groups:
                for schedule in group.schedules:
                    schedule.step()
            self.ema.step(self.parameters)
            self.step += 1
            yield

    def _next_batch(self, batches: Iterator[dict]):
        began = time.perf_counter()
        raw = next(batches)
        self.journal.window.waited += time.perf_counter() - began
        batch = self.task.batch(raw, self.accelerator.device)
        self.journal.count(self.step, raw, *self.task.size(raw, batch))
        return batch

    def _descend(self, phase: Phase, batch) -> None:
        """Loss and gradient of a batch; after the last batch of a step, the step of the optimizers of the group."""
        accelerator, max_norm = self.accelerator, self.config.optimization.max_grad_norm
        group = next(group for group in self.groups if group.name == phase.group)
        with accelerator.accumulate(self.model):
            with self._precision():
                output = phase.loss(self.model, batch)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients:
                if not self.task.groups_are_called:
                    average_gradients(accelerator, group.parameters)
                grad_norm = accelerator.clip_grad_norm_(group.parameters, max_norm)
                self.journal.window.add_grad_norm(grad_norm, self._prefix(group))
            for optimizer in group.optimizers:
                optimizer.step()
                optimizer.zero_grad()
        self.journal.window.add(output, self._prefix(group))

    def _prefix(self, group: ParameterGroup) -> str:
        """Of the names of its figures; none for the group that the run is about."""
        return "" if group is self.groups[0] else f"{group.name}_"

    @contextmanager
    def _precision(self):
        with self.accelerator.autocast(), self.task.precision():
            yield

    # Figures

    def _window_figures(self) -> dict[str, float]:
        """Figures since the last log line, over all processes."""
        figures = self.journal.window_figures()
        rates = {f"{self._prefix(group)}learning_rate": group.schedules[0].get_last_lr()[0] for group in self.groups}
        return figures | rates | {"ema_decay": self.ema.cur_decay_value} | self.task.amount(self.journal.units)

    @property
    def _decisive(self) -> str:
        return f"validation_{self.task.decisive}"

    def _validated(self) -> float | None:
        figures = self.validate()
        self.journal.log(self.step, figures)
        return figures.get(self._decisive)

    def _is_best(self, figure: float | None) -> bool:
        """Decided by the main process: in the others the last bit may differ."""
        decision = [False]
        if self.accelerator.is_main_process and figure is not None:
            best = best_checkpoint(self.output_dir)
            decision = [best is None or figure < decisive_figure(best)]
        return broadcast_object_list(decision)[0]

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on fixed batches with fixed draws."""
        if self.validation_loader is None:
            return {}
        totals, count = Counter(), 0
        with self.averaged_weights():
            for raw in self.validation_loader:
                if count == self.config.logging.num_validation_batches:
                    break
                batch = self.task.batch(raw, self.accelerator.device)
                generator = torch.Generator(self.accelerator.device).manual_seed(count)
                with torch.no_grad(), self._precision():
                    figures = self.task.validate(batch, generator)
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

    # State

    def save_checkpoint(self, figure: float | None = None) -> None:
        """Write everything a run needs to go on; every process calls this. `figure`: the decisive one, if there is."""
        logging = self.config.logging

        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder))
            shadow = {str(i): p.contiguous() for i, p in enumerate(whole(self.ema.shadow_params))}
            if self.accelerator.is_main_process:
                save_file(shadow, folder / "ema.safetensors")
            (folder / self._rank_file).write_text(
                json.dumps({"data": self.loader.state_dict()} | self.journal.state_dict())
            )

        state = {
            "step": self.step,
            "units": self.journal.units,
            "ema_step": self.ema.optimization_step,
            "data_seed": self.data_seed,
            "num_processes": self.accelerator.num_processes,
            "decisive": self._decisive,
            self._decisive: figure,
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
            results = None if figure is None else {self._decisive: figure}
            with self.averaged_weights():
                self.publisher.submit(self.step, self.journal.units, results)

    @property
    def _rank_file(self) -> str:
        return f"process-{self.accelerator.process_index}.json"

    def _resume(self) -> None:
        folders = checkpoint_folders(self.output_dir)
        if not folders:
            return
        checkpoint, device = folders[-1], self.accelerator.device
        self.accelerator.load_state(str(checkpoint))
        state = read_state(checkpoint)
        self.step, self.data_seed = state["step"], state["data_seed"]
        # Once they were called frames, whatever they were.
        self.journal.units = state["units"] if "units" in state else state["frames"]
        # Not onto the device at once: safetensors refuses the `cpu:0` of several processes on a CPU.
        shadow = load_file(checkpoint / "ema.safetensors")
        averaged = [shadow[str(i)].to(device) for i in range(len(shadow))]
        self.ema.shadow_params = sharded_like(averaged, self.parameters)
        self.ema.optimization_step = state["ema_step"]
        for group in self.groups:
            set_schedules(group.schedules, self.step)
        self._resume_data(checkpoint, state["num_processes"])
        self.journal.forget_after(self.step)
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
        self.journal.load_state_dict(rank_state)

    def save_result(self) -> None:
        """Write the result with the averaged weights."""
        averaged = whole(self.ema.shadow_params)
        if not self.accelerator.is_main_process:
            return
        # A network that FSDP has taken apart cannot be saved: the weights go into a new one.
        task = self.build(self.config) if is_sharded(self.parameters) else self.task
        first, *_ = task.groups().values()
        for parameter, average in zip(first.values(), averaged, strict=True):
            parameter.data.copy_(average)
        task.save(self.output_dir, self.step, self.journal.units)


def _flat(config: TrainingConfig) -> dict[str, object]:
    """Fields that a tracker can show."""
    values = {name: value for section in dataclasses.asdict(config).values() for name, value in section.items()}
    return {
        name: value if isinstance(value, int | float | str | bool) else str(value) for name, value in values.items()
    }
