"""The trainer: a loop of under 60 lines that calls the small methods of `TrainerHooks`.

A plug-in subclasses `Trainer` (or one of the trainers that come with siccs_net) and overrides any of the methods in
`hooks.HOOKS`. Numbers are configuration (`defaults`, the plan, `--set`), never a reason for a subclass.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from siccs_net.data.loader import Batch, Waited
from siccs_net.errors import Interrupted, TrainingError, UnavailableError, UsageError
from siccs_net.io import files
from siccs_net.io.checkpoint import write_tensors
from siccs_net.networks.convnext_unet import ConvNeXtUNet
from siccs_net.networks.numerics import applied
from siccs_net.plugins import TRAINERS, find_class
from siccs_net.records.checkpoint import FinalRecord, PretrainedRecord, StateRecord
from siccs_net.trainers import state
from siccs_net.trainers.averaging import WeightAverage
from siccs_net.trainers.budget import Clock
from siccs_net.trainers.finite import NotFiniteError
from siccs_net.trainers.interrupts import Interrupts
from siccs_net.trainers.log import EpochLog, describe_epoch, progress_bar
from siccs_net.trainers.pretrained import begin_pretrained, resumed_pretrained
from siccs_net.trainers.stepping import TrainerSteps

logger = logging.getLogger(__name__)


class Trainer(TrainerSteps):
    """Base of all trainers: the loop. The constructor only stores; `fit` builds, trains and writes the fold's model."""

    _log: EpochLog
    _pretrained: PretrainedRecord | None
    _ended = False

    def fit(self) -> FinalRecord:
        """Train the fold and write its model; return the model's record.

        Raises TrainingError (loss not finite, run already there, dead worker) or Interrupted after a signal, with
        the state saved.
        """
        found = self._begin()
        self.numerics = found[0].numerics if found else self._choose_numerics()
        self._clock = self._new_clock(found[0].seconds if found else 0.0)
        with Interrupts() as interrupts, applied(self.numerics):
            self._build()
            progress = self._restore(found)
            self._ended = self._is_over()
            with contextlib.closing(Waited(self._batches(progress))) as batches:
                while not self._is_finished(progress) and not self._stop_file(progress):
                    started = time.monotonic()
                    self._train_epoch(progress, batches, interrupts)
                    entry = self._epoch_entry(progress, time.monotonic() - started, batches.take_seconds())
                    progress = self._finish_epoch(progress, entry)
                    self._stop_if(interrupts)
            return self._write_model(progress)

    def _begin(self) -> tuple[StateRecord, dict[str, Tensor]] | None:
        """Return the state to go on from; None for anew. On several devices the first process tidies up first."""
        if self._devices.leads:
            found = state.begin(self.task.run, resume=self.task.resume)
        self._devices.wait()
        if not self._devices.leads:
            found = state.read_newest_state(self.task.run) if self.task.resume else None
        return found

    def _train_epoch(
        self, progress: state.Progress, batches: Iterator[tuple[tuple[int, int], Batch]], interrupts: Interrupts
    ) -> None:
        self.network.train()
        self.loss.train()
        title = f"fold {self.task.fold} {self._epoch_name(progress.epoch)}"
        with progress_bar(title, self._iterations, progress.iteration, shown=self.task.show_progress) as bar:
            for (epoch, iteration), batch in itertools.islice(batches, self._iterations - progress.iteration):
                try:
                    values = self._step(epoch, iteration, batch)
                except NotFiniteError as error:
                    raise self._with_last_state(error, progress) from error
                progress.add(values)
                bar.update()
                if iteration % 10 == 9:
                    bar.set_postfix(loss=f"{progress.mean('loss'):.4f}", refresh=False)
                if progress.iteration < self._iterations:
                    self._stop_if(interrupts, progress)
                if self._is_over():
                    break
                if self._clock.must_save() and progress.iteration < self._iterations:
                    self._save(progress)

    def _new_clock(self, used: float) -> Clock:
        """Return the training's clock. Raises UnavailableError for a time to be kept by several processes."""
        minutes = self.config.budget_minutes
        if minutes is None:
            return Clock(used_before_s=used)
        if self._devices.count > 1:
            raise UnavailableError(
                "a training on several devices cannot end by the clock", hint="Give it epochs: --set epochs=100"
            )
        batch = self.config.batch_size or self.task.configuration.batch_size
        return Clock(60 * minutes, used, samples=self.config.validation_patches / batch)

    def _is_finished(self, progress: state.Progress) -> bool:
        """Say whether all epochs are done or, with a budget, the time is over and there was one epoch at least."""
        if self.config.budget_minutes is None:
            return progress.epoch >= self.config.epochs
        return progress.epoch > 0 and self._ended

    def _is_over(self) -> bool:
        """Say whether the time is over."""
        return self._clock.is_over

    def _epoch_name(self, epoch: int) -> str:
        if self.config.budget_minutes is None:
            return f"epoch {epoch + 1}/{self.config.epochs}"
        return f"epoch {epoch + 1} ({self._clock.used_s / 60:.1f} of {self.config.budget_minutes:g} min)"

    def _with_last_state(self, error: NotFiniteError, progress: state.Progress) -> TrainingError:
        """Save the state before the step that failed, and return an error that names it."""
        self._save(progress)
        return TrainingError(
            error.message,
            path=self.task.run.states()[0] if self._devices.leads else self.task.run.root,
            found=error.found,
            hint="The state before this step is kept there. Try a lower --set learning_rate or --set precision=float32",
        )

    def _finish_epoch(self, progress: state.Progress, entry: dict[str, Any]) -> state.Progress:
        """Log and save a finished epoch; return where the training stands then."""
        after = state.Progress(progress.epoch + 1)
        if self._devices.leads:
            after.log_bytes = self._log.append(entry)
        self._save(after)
        if self._devices.leads:
            self._picture.draw(self._log.lines)
            logger.info("%s", describe_epoch(self.task.fold, self._epoch_name(progress.epoch), entry))
            self.on_epoch_end(progress.epoch, entry)
        return after

    def _stop_file(self, progress: state.Progress) -> bool:
        """Say whether a STOP file asks to end after this epoch; it is removed, so that --resume can go on."""
        found = self._devices.leads and progress.epoch > 0 and self.task.run.stop.is_file()
        if not self._devices.largest(int(found)):
            return False
        if found:
            self.task.run.stop.unlink()
        logger.info("STOP file found: ending after %s", self._epoch_name(progress.epoch - 1))
        return True

    def _restore(self, found: tuple[StateRecord, dict[str, Tensor]] | None) -> state.Progress:
        progress = state.Progress()
        if found is None:
            self._pretrained = begin_pretrained(self.task, self._model, write=self._devices.leads)
        else:
            record, tensors = found
            state.check_same_training(record, self._sha256, self.task)
            self._pretrained = resumed_pretrained(self.task)
            progress = state.restore(record, tensors, self._model, self.optimizer, self._scaler)
            logger.info("resuming at epoch %d, iteration %d", progress.epoch, progress.iteration)
        if self.config.ema_decay is not None:
            self._average = WeightAverage(self._model, self.config.ema_decay)
            if found is not None:
                self._average.restore(state.with_prefix(found[1], state.AVERAGE))
        self.network = self._devices.spread(self._model, unused=not isinstance(self._model, ConvNeXtUNet))
        if self._devices.leads:
            self._log = EpochLog(self.task.run.log, progress.log_bytes)
        return progress

    def _epoch_entry(self, progress: state.Progress, seconds: float, waited: float) -> dict[str, Any]:
        """Return the epoch's line of the log; `waited` of the seconds of training went by until batches came.

        Raises TrainingError when the loss is not finite.
        """
        entry: dict[str, Any] = {"epoch": progress.epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        means = self._devices.mean({name: progress.mean(name) for name in progress.running})
        entry |= {name if name == "loss" else f"loss_{name}": value for name, value in means.items()}
        if not math.isfinite(entry["loss"]):
            raise TrainingError(
                f"the loss of epoch {progress.epoch} is not finite",
                path=self.task.run.root,
                hint="The state before it is kept. Try a lower --set learning_rate or --set precision=float32",
            )
        if self._is_validated(progress):
            began = time.monotonic()
            entry |= self._validate()
            self._clock.validated(time.monotonic() - began)
            self._ended = self._ended or self._is_over()
        entry |= {"iterations": progress.iteration, "elapsed": round(self._clock.used_s, 3)}
        return {**entry, "seconds": round(seconds, 3), "data_wait": round(waited / max(seconds, 1e-9), 4)}

    def _is_validated(self, progress: state.Progress) -> bool:
        """Say whether to validate after this epoch: the last one always, others in turn and as far as time allows."""
        if self.config.budget_minutes is None:
            last = progress.epoch + 1 == self.config.epochs
        else:
            last = self._ended = self._is_over()
        in_turn = (progress.epoch + 1) % self.config.validate_every == 0
        return last or (in_turn and self._clock.may_validate())

    def _save(self, progress: state.Progress) -> None:
        if self._devices.count > 1:
            progress.running = dict(self._devices.mean(progress.running))
        if not self._devices.leads:
            return
        self._clock.saved()
        number = progress.epoch * self._iterations + progress.iteration
        state.save_state(
            self.task.run,
            self._model,
            self.optimizer,
            self._scaler,
            progress,
            self.numerics,
            self._sha256,
            number=number,
            seconds=self._clock.used_s,
            average=self._average.state() if self._average else {},
        )

    def _stop_if(self, interrupts: Interrupts, unsaved: state.Progress | None = None) -> None:
        """Raise Interrupted after a signal to any process, with the unsaved progress saved."""
        number = self._devices.largest(interrupts.number or 0)
        if not number:
            return
        if unsaved is not None:
            self._save(unsaved)
        raise Interrupted(
            f"stopped by signal {number}; the state is saved in {self.task.run.root}, go on with --resume",
            signal_number=number,
        )

    def _write_model(self, progress: state.Progress) -> FinalRecord:
        """Write the last weights as final.safetensors, then final.json, which makes the fold count."""
        if not self._devices.leads:
            self._devices.wait()
            return files.read_record(self.task.run.record, FinalRecord)
        self._picture.draw(self._log.lines, last=True)
        network_class = type(self._model)
        ours = network_class.__module__.startswith("siccs_net.")
        weights = self._average.state() if self._average else self._model.state_dict()
        digest = write_tensors(self.task.run.weights, weights)
        record = FinalRecord(
            fold=self.task.fold,
            trainer=type(self).__name__,
            weights_sha256=digest,
            training_sha256=self._sha256,
            epochs=progress.epoch,
            complete=self._is_finished(progress),
            training_cases=self.task.training_cases,
            validation_cases=self.task.validation_cases,
            normalisation=self.task.normalisation,
            configuration=self.configuration,
            network_class=None if ours else f"{network_class.__module__}:{network_class.__qualname__}",
            config=self.config.model_dump(mode="json"),
            numerics=self.numerics,
            pretrained=self._pretrained,
        )
        files.write_record(self.task.run.record, record)
        self._devices.wait()
        return record


def find_trainer(name: str | type) -> type[Trainer]:
    """Return the trainer that `name` means (`plugins.find_class`). Raises UsageError for a class that is none."""
    kind = find_class(name, TRAINERS)
    if not issubclass(kind, Trainer):
        raise UsageError(f"{kind.__name__} is not a siccs_net trainer", expected="a subclass of siccs_net.Trainer")
    return kind
