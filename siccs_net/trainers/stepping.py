"""One step and one validation of a trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from siccs_net.data.loader import Batch
from siccs_net.data.streams import torch_seed
from siccs_net.networks.numerics import applied, autocast, compile_problems
from siccs_net.trainers.budget import Clock
from siccs_net.trainers.building import TrainerParts
from siccs_net.trainers.devices import without_sync
from siccs_net.trainers.finite import NotFiniteError, describe_not_finite


class TrainerSteps(TrainerParts):
    """Takes updates, and validates on the fixed patches."""

    def rehearse(self, steps: int) -> Iterator[float]:
        """Take updates on random images of the batch's size and yield the loss of each. Reads and writes no file.

        For measuring what a step costs: everything is built as `fit` builds it, but for the sampling.
        """
        self.numerics = self._choose_numerics()
        self._clock = Clock()
        with applied(self.numerics):
            self._adapt()
            self._build_model()
            self._build_updates()
            self.network.train()
            self.loss.train()
            for number in range(steps):
                yield float(self._step(0, number % self._iterations, self._random_batch(number))["loss"])

    def _step(self, epoch: int, iteration: int, batch: Batch) -> dict[str, Tensor]:
        """One update: forward, loss, backward, clipped gradient, optimizer; returns the scalars to log."""
        place = (epoch, iteration, *((self._devices.number,) if self._devices.count > 1 else ()))
        torch.manual_seed(torch_seed(self.config.seed, self.task.fold, "step", *place))
        self._clock.begin_step()
        self._set_learning_rate(self._schedule_place(epoch, iteration))
        self.optimizer.zero_grad(set_to_none=True)
        with compile_problems(self.numerics):
            values = self._backward(*self._to_device(batch))
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.network.parameters() if p.grad is not None])
        if not self._scaler.is_enabled():  # a scaler skips such steps itself
            self._check_finite(values["loss"], norm, batch, place)
        if self.config.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.network.parameters(), self.config.gradient_clip, norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._model, epoch * self._iterations + iteration)
        self._clock.end_step()
        return values

    def _schedule_place(self, epoch: int, iteration: int) -> float:
        """Return where in the schedule an iteration is, in epochs: with a budget by the time that is gone."""
        if self.config.budget_minutes is None:
            return epoch + iteration / self._iterations
        return self._clock.done * self.config.epochs

    def _check_finite(self, loss: Tensor, norm: Tensor, batch: Batch, place: tuple[int, ...]) -> None:
        """Raise NotFiniteError in every process when the loss or the gradient is not finite in one of them."""
        mine = not (bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)))
        if not self._devices.largest(int(mine)):
            return
        step = f"of epoch {place[0]}, iteration {place[1]} is not finite"
        if not mine:
            raise NotFiniteError(f"the loss {step} in another process")
        if not torch.isfinite(batch.images).all():
            raise NotFiniteError(f"the loss {step}: an image is not", found=f"cases {', '.join(batch.cases)}")

        def run_again() -> None:
            torch.manual_seed(torch_seed(self.config.seed, self.task.fold, "step", *place))
            for part in self._to_device(batch)[0].chunk(self.config.gradient_accumulation):
                with autocast(self.numerics):
                    self._model(part)

        what, where = describe_not_finite(loss, self._model, run_again)
        raise NotFiniteError(f"the {what} {step}", found=where)

    def _backward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Add up the gradients of a batch, which passes the network in `gradient_accumulation` parts."""
        totals: dict[str, Tensor] = {}
        parts = self.config.gradient_accumulation
        for part, (some_images, some_labels) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            share = len(some_images) / len(images)
            with without_sync(self.network, part, parts):
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

    @torch.no_grad()
    def _validate(self) -> dict[str, Any]:
        """Loss and Dice per class on the fixed patches, of the averaged weights where there are such."""
        trained, self.network = self.network, self._average.network if self._average else self._model
        self.network.eval()
        self.loss.eval()
        try:
            every = self._devices.gather(self._validate_places())
        finally:
            self.network = trained
        losses = [loss for _, found in every for loss in found]
        confusion = torch.stack([counts for counts, _ in every]).sum(0)
        return {"validation_loss": math.fsum(losses) / len(losses), "dice": self.score(confusion)}

    def _validate_places(self) -> tuple[Tensor, list[float]]:
        """Return the confusion matrix and the losses of this process's share of the places."""
        classes = len(self.task.labels.stored_values)
        confusion = torch.zeros((classes, classes), dtype=torch.int64)
        losses = []
        for place in self._validation[self._devices.number :: self._devices.count]:
            image, label = self._reader().read_input(place, self.configuration.patch_size, clamp=True)
            batch = Batch(torch.from_numpy(image)[None], torch.from_numpy(label)[None], (place.case,))
            with autocast(self.numerics):
                values = self.validation_step(*self._to_device(batch))
            confusion += values["confusion"].cpu()
            losses.append(float(values["loss"]))
        return confusion, losses
