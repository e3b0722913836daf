"""The training loop. What is trained is the affair of a `Task`."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed

from dtm_hf.files import entries_written_aside
from dtm_hf.training.config.arguments import TrainingConfig
from dtm_hf.training.loop.averaging import WeightAverage
from dtm_hf.training.loop.checkpoints import (
    checkpoint_folders,
    is_best,
    load_weights,
    newest_sound_checkpoint,
    read_state,
    write_checkpoint,
)
from dtm_hf.training.loop.draws import seed_draws
from dtm_hf.training.loop.finite import FiniteGuard, finite_or_none
from dtm_hf.training.loop.groups import ParameterGroup, average_gradients
from dtm_hf.training.loop.journal import Journal
from dtm_hf.training.loop.locking import written_alone
from dtm_hf.training.loop.optimization import set_schedules
from dtm_hf.training.loop.precision import FLOAT32_INSTEAD, usable_precision
from dtm_hf.training.loop.publishing import Publisher
from dtm_hf.training.loop.ranks import leave, on_main
from dtm_hf.training.loop.sharding import check_sharding, is_sharded, whole
from dtm_hf.training.loop.stopping import StopRequest
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
        RunError: if another process is writing `output_dir`, it cannot be written, or none of its checkpoints can be
            gone on from.
    """

    def __init__(self, config: TrainingConfig, build: Callable[[TrainingConfig], Task] = build_task):
        self.config, self.build = config, build
        options = config.optimization
        self.output_dir = Path(options.output_dir)
        precision = usable_precision(options.mixed_precision)
        self.accelerator = Accelerator(
            mixed_precision=precision,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            log_with=None if config.logging.report_to == "none" else config.logging.report_to,
            project_config=ProjectConfiguration(
                project_dir=str(self.output_dir), logging_dir=str(self.output_dir / "logs")
            ),
            step_scheduler_with_optimizer=False,
        )
        if precision != options.mixed_precision:
            self.accelerator.print(FLOAT32_INSTEAD)
        if not config.logging.resume and checkpoint_folders(self.output_dir):
            raise ValueError(
                f"`output_dir` {options.output_dir!r} holds checkpoints of another run and `resume` is off."
            )
        self._alone = ExitStack()
        on_main(self.accelerator, self._take_output_dir)
        check_sharding(self.accelerator, config, [name for name, system in SYSTEMS.items() if system.shardable])
        set_seed(options.seed)
        self._build_model()
        self.step = 0
        self.journal = Journal(self.accelerator, self.output_dir, self.task.unit)
        self.guard = FiniteGuard(self.accelerator, options.max_skipped_steps)
        self.data_seed, self.loader = options.seed, None
        if config.logging.resume:
            self._resume()
        self.journal.forget_after(self.step)
        if self.loader is None:
            self.loader = self._loader(config.data.train_split, endless=True)
        # Once, and at the start: to find the sources again at each validation would ask the Hub each time.
        split = config.data.validation_split
        self.validation_loader = None if split is None else self._loader(split, endless=False)
        main = self.accelerator.is_main_process
        if main and config.logging.report_to != "none":
            # TensorBoard hides what a run wrote after the step that it goes on from.
            settings = {"tensorboard": {"purge_step": self.step + 1}, "wandb": {"name": config.logging.run_name}}
            self.accelerator.init_trackers("dtm-hf", config=config.flat(), init_kwargs=settings)
        self.has_samples = False
        if main:
            with self.ema.in_place():
                self.has_samples = self.task.open_samples(self.output_dir / "samples")
        self.publisher = None
        if config.logging.push_to_hub is not None and main:
            self.publisher = Publisher(
                config.logging.push_to_hub, self.output_dir, self.task, say=self.accelerator.print
            )
        self.accelerator.wait_for_everyone()

    def _take_output_dir(self) -> None:
        self._alone.enter_context(written_alone(self.output_dir))

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
        self.ema = WeightAverage(self.module, self.parameters, options.ema_decay, self.accelerator.device)

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

    # Loop

    def train(self) -> bool:
        """
        Train to `max_steps`, then write the pipeline with the averaged weights into `output_dir`. SIGTERM, SIGINT or
        SIGUSR1 to any process ends the run after its step, with a checkpoint.

        Returns:
            `bool`: whether it was trained to the end.

        Raises:
            DivergenceError: if losses, gradients or weights are not finite.
            CheckpointError: if a checkpoint cannot be written.
        """
        with self._alone, StopRequest() as stop:
            finished = self._train(stop)
            self.journal.report_rows()
            self.guard.report()
            if finished:
                self.save_result()
                if self.publisher is not None:
                    self.publisher.close()
            else:
                self.accelerator.print(f"Stopped by {stop} after step {self.step}; the same command goes on from it.")
            self.model = self.module
            leave(self.accelerator)
        return finished

    def _train(self, stop: StopRequest) -> bool:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        options, logging = self.config.optimization, self.config.logging
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.accelerator.is_main_process) as progress:
            task = progress.add_task("training", total=options.max_steps, completed=self.step)
            due = False
            for _ in self._steps():
                progress.update(task, completed=self.step)
                last = self.step == options.max_steps
                if self.step % logging.log_interval == 0:
                    figures = self._window_figures()
                    self.journal.log(self.step, figures)
                    loss = figures["loss"]
                    progress.update(task, description="no finite loss" if loss is None else f"loss {loss:.3f}")
                if self.has_samples and (self.step % logging.sample_interval == 0 or last):
                    with self.ema.in_place():
                        self.task.write_samples(self.step, self.accelerator.trackers)
                validated = self.step % logging.eval_interval == 0 or last
                figures = self.validate() if validated else {}
                self.journal.log(self.step, figures)
                figure = finite_or_none(figures.get(self._decisive))
                best = validated and on_main(self.accelerator, is_best, self.output_dir, figure)
                stopped = stop.agreed(self.accelerator) and not last
                due = due or self.step % logging.save_interval == 0 or last or best
                # What is not sound waits for a step that is: it would take the place of what is.
                if self.guard.is_sound(self.step, figures.get(self._decisive), last) and due or stopped:
                    self.save_checkpoint(figure, publish=not stopped)
                    due = False
                if stopped:
                    return False
        return True

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
                self._draws(number, draw=1)
                with self._precision():
                    numbered[number] = self.task.prepare(batch)
            for i, phase in enumerate(self.task.phases(self.step)):
                self._descend(phase, numbered, draw=i + 1 if i else 0)
            for group in self.groups:
                for schedule in group.schedules:
                    schedule.step()
            self.step += 1
            if self.guard.end_step(self.step):
                self.ema.step(self.parameters)
            yield

    def _next_batch(self, batches: Iterator[dict]):
        began = time.perf_counter()
        raw = next(batches)
        self.journal.window.waited += time.perf_counter() - began
        batch = self.task.batch(raw, self.accelerator.device)
        self.journal.count(self.step + 1, raw, *self.task.size(raw, batch))
        return batch

    def _draws(self, batch_number: int, draw: int) -> None:
        seed_draws(self.accelerator, self.config.optimization.seed, batch_number, draw)

    def _descend(self, phase: Phase, batches: dict[int, Any], draw: int) -> None:
        """Losses and gradient of the batches of a step; if they are finite, the step of the group's optimizers."""
        accelerator, max_norm = self.accelerator, self.config.optimization.max_grad_norm
        group = next(group for group in self.groups if group.name == phase.group)
        outputs = []
        for number, batch in batches.items():
            self._draws(number, draw)
            with accelerator.accumulate(self.model):
                with self._precision():
                    outputs.append(phase.loss(self.model, batch))
                accelerator.backward(outputs[-1].loss)
        if not self.task.groups_are_called:
            average_gradients(accelerator, group.parameters)
        grad_norm = accelerator.clip_grad_norm_(group.parameters, max_norm)
        accepted = self.guard.accepts([output.loss for output in outputs], grad_norm)
        for optimizer in group.optimizers:
            if accepted:
                optimizer.step()
            optimizer.zero_grad()
        self.journal.window.add_step(outputs if accepted else [], grad_norm, self._prefix(group))

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
        more = {"ema_decay": self.ema.cur_decay_value, "skipped_steps": self.guard.skipped}
        return figures | rates | more | self.task.amount(self.journal.units)

    @property
    def _decisive(self) -> str:
        return f"validation_{self.task.decisive}"

    def validate(self) -> dict[str, float]:
        """Figures of the averaged weights on fixed batches with fixed draws."""
        if self.validation_loader is None:
            return {}
        totals, count = Counter(), 0
        with self.ema.in_place():
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

    # State

    def save_checkpoint(self, figure: float | None = None, publish: bool = True) -> None:
        """Write everything a run needs to go on; every process calls this. `figure`: the decisive one, if there is."""
        logging = self.config.logging
        self._check_weights()

        def write(folder: Path) -> None:
            self.accelerator.save_state(str(folder))
            self.ema.save(folder, self.accelerator.is_main_process)
            rank_state = {"data": self.loader.state_dict()} | self.journal.state_dict()
            (folder / self._rank_file).write_text(json.dumps(rank_state, allow_nan=False))

        state = {
            "step": self.step,
            "units": self.journal.units,
            "ema_step": self.ema.optimization_step,
            "data_seed": self.data_seed,
            "num_processes": self.accelerator.num_processes,
            **self.guard.state_dict(),
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
        if self.publisher is not None and publish:
            results = None if figure is None else {self._decisive: figure}
            with self.ema.in_place():
                self.publisher.submit(self.step, self.journal.units, results)

    def _check_weights(self) -> None:
        weights = [parameter for group in self.groups for parameter in group.parameters]
        self.guard.check_weights(self.step, [*weights, *self.ema.shadow_params])

    @property
    def _rank_file(self) -> str:
        return f"process-{self.accelerator.process_index}.json"

    def _resume(self) -> None:
        say = self.accelerator.print
        checkpoint = on_main(self.accelerator, newest_sound_checkpoint, self.output_dir, say)
        if checkpoint is None:
            return
        load_weights(self.accelerator, checkpoint)
        state = read_state(checkpoint)
        self.guard.load_state_dict(state)
        self.step, self.data_seed = state["step"], state["data_seed"]
        # Once they were called frames, whatever they were.
        self.journal.units = state["units"] if "units" in state else state["frames"]
        self.ema.load(checkpoint, state["ema_step"])
        for group in self.groups:
            set_schedules(group.schedules, self.step)
        self._resume_data(checkpoint, state["num_processes"])
        say(f"Resumed from {checkpoint} at step {self.step}.")

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
        """Write the result with the averaged weights: aside, so that a killed run leaves none by halves."""
        self._check_weights()
        averaged = whole(self.ema.shadow_params)
        if not self.accelerator.is_main_process:
            return
        # A network that FSDP has taken apart cannot be saved: the weights go into a new one.
        task = self.build(self.config) if is_sharded(self.parameters) else self.task
        first, *_ = task.groups().values()
        for parameter, average in zip(first.values(), averaged, strict=True):
            parameter.data.copy_(average)
        with entries_written_aside(self.output_dir) as folder:
            task.save(folder, self.step, self.journal.units)
