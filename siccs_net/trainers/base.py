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
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.loader import Batch, PatchReader, TrainingBatches, load_batches
from siccs_net.data.sampling import Place, fixed_places
from siccs_net.data.streams import torch_seed
from siccs_net.errors import Interrupted, TrainingError, UsageError
from siccs_net.io import files
from siccs_net.io.checkpoint import write_tensors
from siccs_net.losses import DeepSupervisionLoss, deep_supervision_weights
from siccs_net.networks.build import output_strides
from siccs_net.networks.numerics import applied, autocast, choose_numerics, default_workers
from siccs_net.plugins import TRAINERS, find_class
from siccs_net.records.checkpoint import FinalRecord, Numerics, StateRecord
from siccs_net.records.plan import Configuration
from siccs_net.trainers import state
from siccs_net.trainers.config import complete
from siccs_net.trainers.foreign_loss import fit_to_labels
from siccs_net.trainers.hooks import TrainerHooks
from siccs_net.trainers.interrupts import Interrupts
from siccs_net.trainers.log import EpochLog, ProgressPicture, describe_epoch, progress_bar

logger = logging.getLogger(__name__)


class Trainer(TrainerHooks):
    """Base of all trainers: the loop. The constructor only stores; `fit` builds, trains and writes the fold's model."""

    def fit(self) -> FinalRecord:
        """Train the fold and write its model; return the model's record.

        Raises TrainingError (loss not finite, run already there, dead worker) or Interrupted after a signal, with
        the state saved.
        """
        found = state.begin(self.task.run, resume=self.task.resume)
        self.numerics = found[0].numerics if found else self._choose_numerics()
        with Interrupts() as interrupts, applied(self.numerics):
            self._build()
            progress = self._restore(found)
            log = EpochLog(self.task.run.log, progress.log_bytes)
            with contextlib.closing(self._batches(progress)) as batches:
                while progress.epoch < self.config.epochs and not self._stop_file(progress):
                    started = time.monotonic()
                    self._train_epoch(progress, batches, interrupts)
                    entry = self._epoch_entry(progress, time.monotonic() - started)
                    progress = state.Progress(progress.epoch + 1, log_bytes=log.append(entry))
                    self._save(progress)
                    self._picture.draw(log.lines)
                    logger.info("%s", describe_epoch(self.task.fold, self.config.epochs, entry))
                    self.on_epoch_end(progress.epoch - 1, entry)
                    self._stop_if(interrupts)
            self._picture.draw(log.lines, last=True)
            return self._write_model(progress)

    def training_sha256(self) -> str:
        """Return the hash of this training: equal hashes mean that a run can be resumed, or is this one, finished."""
        self._adapt()
        return state.training_sha256(self.task, self.config, self.configuration, type(self).__name__)

    def rehearse(self, steps: int) -> Iterator[float]:
        """Take updates on random images of the batch's size and yield the loss of each. Reads and writes no file.

        For measuring what a step costs: everything is built as `fit` builds it, but for the sampling.
        """
        self.numerics = self._choose_numerics()
        with applied(self.numerics):
            self._adapt()
            self._build_model()
            self._build_updates()
            self.network.train()
            for number in range(steps):
                yield float(self._step(0, number % self._iterations, self._random_batch(number))["loss"])

    def rebuild_network(self, configuration: Configuration) -> nn.Module:
        """Return a new network for a configuration that was trained with, as `build_network` makes it."""
        self.configuration = configuration
        return self.build_network()

    def _train_epoch(
        self, progress: state.Progress, batches: Iterator[tuple[tuple[int, int], Batch]], interrupts: Interrupts
    ) -> None:
        self.network.train()
        title = f"fold {self.task.fold} epoch {progress.epoch + 1}/{self.config.epochs}"
        with progress_bar(title, self._iterations, progress.iteration, shown=self.task.show_progress) as bar:
            for (epoch, iteration), batch in itertools.islice(batches, self._iterations - progress.iteration):
                values = self._step(epoch, iteration, batch)
                progress.add(values)
                bar.update()
                if iteration % 10 == 9:
                    bar.set_postfix(loss=f"{progress.mean('loss'):.4f}", refresh=False)
                if interrupts.number is not None and progress.iteration < self._iterations:
                    self._save(progress)
                    self._stop_if(interrupts)

    def _choose_numerics(self) -> Numerics:
        return choose_numerics(self.task.device, self.config.precision, deterministic=self.config.deterministic)

    def _adapt(self) -> None:
        """Take the adapted plan and fill the settings that default to it; mirror at prediction only what is trained."""
        adapted = self.adapt_plan(self.task.configuration)
        self.config = complete(self.task.config, adapted)
        mirrored = tuple(axis for axis in adapted.inference.mirror_axes if axis in (self.config.mirror_axes or ()))
        inference = adapted.inference.model_copy(update={"mirror_axes": mirrored})
        self.configuration = adapted.model_copy(update={"inference": inference})

    def _stop_file(self, progress: state.Progress) -> bool:
        """Say whether a STOP file asks to end after this epoch; it is removed, so that --resume can go on."""
        if progress.epoch == 0 or not self.task.run.stop.is_file():
            return False
        self.task.run.stop.unlink()
        logger.info("STOP file found: ending after %d of %d epochs", progress.epoch, self.config.epochs)
        return True

    def _build(self) -> None:
        """Build everything, in the order of `HOOKS`; the weights are drawn from the fold's seed."""
        self._adapt()
        self._build_model()
        self._transforms = self.build_augmentation()
        known = {*self.task.training_cases, *self.task.validation_cases}
        labels = self.task.labels
        index = ForegroundIndex(
            self.task.store, sorted(known), len(labels.stored_values), regions=labels.region_classes
        )
        if unlabelled := [case for case, found in index.found.items() if found.ignored and not found.counts]:
            logger.warning("no labelled voxel is left in prepared case %s", ", ".join(unlabelled))
        self._sampler = self.build_sampler(index)
        self._validation = self._validation_places(index)
        self._build_updates()
        self._picture = ProgressPicture(self.task.run.progress)
        self._sha256 = self.training_sha256()

    def _build_model(self) -> None:
        torch.manual_seed(torch_seed(self.config.seed, self.task.fold, "weights"))
        self.network = self.build_network().to(self.task.device)
        self.loss = self._for_every_output(self.build_loss()).to(self.task.device)

    def _build_updates(self) -> None:
        self.optimizer = self.build_optimizer(self.network)
        self._factor = self.build_scheduler()
        self._scaler = torch.amp.GradScaler(self.task.device.type, enabled=self.numerics.precision == "float16")
        self._base_rates = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _random_batch(self, seed: int) -> Batch:
        spec, generator = self.configuration.network, torch.Generator().manual_seed(seed)
        size = (self.config.batch_size or self.configuration.batch_size, *self.configuration.patch_size)
        images = torch.randn((size[0], spec.in_channels, *size[1:]), generator=generator)
        labels = torch.randint(len(self.task.labels.stored_values), size, generator=generator, dtype=torch.uint8)
        return Batch(images, labels, ("random",) * size[0])

    def _for_every_output(self, loss: nn.Module) -> DeepSupervisionLoss:
        """Wrap a loss for the outputs of deep supervision, halving the weight at every coarser output."""
        spec = self.configuration.network
        outputs = len(output_strides(spec)) if spec.deep_supervision else 1
        drop_last = spec.architecture != "convnext_unet" and outputs > 1
        loss = fit_to_labels(loss, self.task.labels)
        return DeepSupervisionLoss(loss, deep_supervision_weights(outputs, drop_last=drop_last))

    def _validation_places(self, index: ForegroundIndex) -> list[Place]:
        return fixed_places(
            index,
            self.task.validation_cases,
            count=self.config.validation_patches,
            seed=self.config.seed,
            fold=self.task.fold,
        )

    def _restore(self, found: tuple[StateRecord, dict[str, Tensor]] | None) -> state.Progress:
        if found is None:
            return state.Progress()
        record, tensors = found
        state.check_same_training(record, self._sha256, self.task)
        progress = state.restore(record, tensors, self.network, self.optimizer, self._scaler)
        logger.info("resuming at epoch %d, iteration %d", progress.epoch, progress.iteration)
        return progress

    @property
    def _iterations(self) -> int:
        return self.config.iterations_per_epoch or self.configuration.iterations_per_epoch

    def _reader(self) -> PatchReader:
        return PatchReader(self.task.store, self.task.normalisation, self.configuration.patch_size)

    def _batches(self, progress: state.Progress) -> Generator[tuple[tuple[int, int], Batch], None, None]:
        first = progress.epoch * self._iterations + progress.iteration
        steps = [divmod(number, self._iterations) for number in range(first, self.config.epochs * self._iterations)]
        batches = TrainingBatches(
            reader=self._reader(),
            sampler=self._sampler,
            settings=self.config.augmentation,
            transforms=self._transforms,
            mirror_axes=self.configuration.patch_axes(self.config.mirror_axes or ()),
            spacing_mm=self.configuration.patch_spacing_mm,
            batch_size=self.config.batch_size or self.configuration.batch_size,
            iterations=self._iterations,
        )
        workers = default_workers(self.task.device) if self.config.workers is None else self.config.workers
        return load_batches(batches, steps, workers=workers)

    def _step(self, epoch: int, iteration: int, batch: Batch) -> dict[str, Tensor]:
        """One update: forward, loss, backward, clipped gradient, optimizer; returns the scalars to log."""
        torch.manual_seed(torch_seed(self.config.seed, self.task.fold, "step", epoch, iteration))
        self._set_learning_rate(epoch + iteration / self._iterations)
        self.optimizer.zero_grad(set_to_none=True)
        values = self._backward(*self._to_device(batch))
        self._scaler.unscale_(self.optimizer)
        if self.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return values

    def _backward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Add up the gradients of a batch, which passes the network in `gradient_accumulation` parts."""
        totals: dict[str, Tensor] = {}
        parts = self.config.gradient_accumulation
        for some_images, some_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            share = len(some_images) / len(images)
            with autocast(self.numerics):
                values = self.training_step(some_images, some_labels)
            self._scaler.scale(values["loss"] * share).backward()  # type: ignore[no-untyped-call]
            for name, value in values.items():
                totals[name] = totals.get(name, torch.zeros_like(value)) + share * value.detach()
        return totals

    def _set_learning_rate(self, epoch: float) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * self._factor(epoch)

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images = batch.images.to(self.task.device, non_blocking=True)
        return images, batch.labels.to(self.task.device, non_blocking=True).long()

    def _epoch_entry(self, progress: state.Progress, seconds: float) -> dict[str, Any]:
        """Return the epoch's line of the log. Raises TrainingError when its loss is not finite."""
        entry: dict[str, Any] = {"epoch": progress.epoch, "learning_rate": self.optimizer.param_groups[0]["lr"]}
        entry |= {name if name == "loss" else f"loss_{name}": progress.mean(name) for name in progress.running}
        if not math.isfinite(entry["loss"]):
            raise TrainingError(
                f"the loss of epoch {progress.epoch} is not finite",
                path=self.task.run.root,
                hint="The state before it is kept. Try a lower --set learning_rate or --set precision=float32",
            )
        last = progress.epoch + 1 == self.config.epochs
        if last or (progress.epoch + 1) % self.config.validate_every == 0:
            entry |= self._validate()
        return {**entry, "seconds": round(seconds, 3)}

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """Loss and Dice per class on the fixed patches."""
        self.network.eval()
        classes = len(self.task.labels.stored_values)
        confusion = torch.zeros((classes, classes), dtype=torch.int64)
        losses = []
        for place in self._validation:
            image, label = self._reader().read(place, self.configuration.patch_size, clamp=True)
            batch = Batch(torch.from_numpy(image)[None], torch.from_numpy(label)[None], (place.case,))
            with autocast(self.numerics):
                values = self.validation_step(*self._to_device(batch))
            confusion += values["confusion"].cpu()
            losses.append(float(values["loss"]))
        return {"validation_loss": math.fsum(losses) / len(losses), "dice": self.score(confusion)}

    def _save(self, progress: state.Progress) -> None:
        number = progress.epoch * self._iterations + progress.iteration
        state.save_state(
            self.task.run,
            self.network,
            self.optimizer,
            self._scaler,
            progress,
            self.numerics,
            self._sha256,
            number=number,
        )

    def _stop_if(self, interrupts: Interrupts) -> None:
        if interrupts.number is not None:
            raise Interrupted(
                f"stopped by signal {interrupts.number}; the state is saved in {self.task.run.root}, "
                "go on with --resume",
                signal_number=interrupts.number,
            )

    def _write_model(self, progress: state.Progress) -> FinalRecord:
        """Write the last weights as final.safetensors, then final.json, which makes the fold count."""
        network_class = type(self.network)
        ours = network_class.__module__.startswith("siccs_net.")
        digest = write_tensors(self.task.run.weights, self.network.state_dict())
        record = FinalRecord(
            fold=self.task.fold,
            trainer=type(self).__name__,
            weights_sha256=digest,
            training_sha256=self._sha256,
            epochs=progress.epoch,
            training_cases=self.task.training_cases,
            validation_cases=self.task.validation_cases,
            normalisation=self.task.normalisation,
            configuration=self.configuration,
            network_class=None if ours else f"{network_class.__module__}:{network_class.__qualname__}",
            config=self.config.model_dump(mode="json"),
            numerics=self.numerics,
        )
        files.write_record(self.task.run.record, record)
        return record


def find_trainer(name: str | type) -> type[Trainer]:
    """Return the trainer that `name` means (`plugins.find_class`). Raises UsageError for a class that is none."""
    kind = find_class(name, TRAINERS)
    if not issubclass(kind, Trainer):
        raise UsageError(f"{kind.__name__} is not a siccs_net trainer", expected="a subclass of siccs_net.Trainer")
    return kind
