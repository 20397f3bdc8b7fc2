"""What a trainer is made of: configuration, network, loss, sampler, optimizer and batches, from its hooks."""

from __future__ import annotations

import logging
from collections.abc import Generator

import torch
from torch import nn

from siccs_net.data.foreground import ForegroundIndex
from siccs_net.data.loader import Batch, PatchReader, Steps, TrainingBatches, load_batches
from siccs_net.data.sampling import Place, fixed_places
from siccs_net.data.streams import torch_seed
from siccs_net.losses import DeepSupervisionLoss, deep_supervision_weights
from siccs_net.networks.build import output_strides
from siccs_net.networks.numerics import choose_numerics, default_workers
from siccs_net.records.checkpoint import Numerics
from siccs_net.records.plan import Configuration
from siccs_net.trainers import state
from siccs_net.trainers.averaging import WeightAverage
from siccs_net.trainers.budget import Clock
from siccs_net.trainers.config import complete
from siccs_net.trainers.devices import Devices, this_process
from siccs_net.trainers.foreign_loss import fit_to_labels
from siccs_net.trainers.hooks import TrainerHooks
from siccs_net.trainers.log import ProgressPicture

logger = logging.getLogger(__name__)
# More than any budget of time allows.
_MOST_STEPS = 10**9


class TrainerParts(TrainerHooks):
    """Builds the parts of a training in the order of `HOOKS`.

    `network` is what a step runs, on several devices wrapped for them; `_model` is the network itself.
    """

    _model: nn.Module
    _average: WeightAverage | None = None
    _clock: Clock

    @property
    def _devices(self) -> Devices:
        return this_process()

    def training_sha256(self) -> str:
        """Return the hash of this training: equal hashes mean that a run can be resumed, or is this one, finished."""
        self._adapt()
        return state.training_sha256(self.task, self.config, self.configuration, type(self).__name__)

    def rebuild_network(self, configuration: Configuration) -> nn.Module:
        """Return a new network for a configuration that was trained with, as `build_network` makes it."""
        self.configuration = configuration
        return self.build_network()

    def _choose_numerics(self) -> Numerics:
        chosen = choose_numerics(
            self.task.device,
            self.config.precision,
            deterministic=self.config.deterministic,
            compiling=self.config.compile,
        )
        return chosen.model_copy(update={"threads": max(1, chosen.threads // self._devices.count)})

    def _adapt(self) -> None:
        """Take the adapted plan and fill the settings that default to it; mirror at prediction only what is trained."""
        adapted = self.adapt_plan(self.task.configuration)
        self.config = complete(self.task.config, adapted, self._devices.count)
        mirrored = tuple(axis for axis in adapted.inference.mirror_axes if axis in (self.config.mirror_axes or ()))
        inference = adapted.inference.model_copy(update={"mirror_axes": mirrored})
        network = adapted.network.model_copy(update={"deep_supervision": self.config.deep_supervision})
        self.configuration = adapted.model_copy(update={"inference": inference, "network": network})

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
        self.network = self._model = self.build_network().to(self.task.device)
        if self.numerics.compiled:
            self._model.compile()
        self.loss = self._for_every_output(self.build_loss()).to(self.task.device)

    def _build_updates(self) -> None:
        self.optimizer = self.build_optimizer(self._model)
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

    @property
    def _iterations(self) -> int:
        return self.config.iterations_per_epoch or self.configuration.iterations_per_epoch

    def _reader(self) -> PatchReader:
        return PatchReader(
            self.task.store,
            self.task.normalisation,
            self.configuration.patch_size,
            self.task.previous,
            self.configuration.stage_channels,
        )

    def _batches(self, progress: state.Progress) -> Generator[tuple[tuple[int, int], Batch], None, None]:
        first = progress.epoch * self._iterations + progress.iteration
        budgeted = self.config.budget_minutes is not None
        last = first + _MOST_STEPS if budgeted else self.config.epochs * self._iterations
        steps = Steps(range(first, last), self._iterations)
        batch_size = self.config.batch_size or self.configuration.batch_size
        batches = TrainingBatches(
            reader=self._reader(),
            sampler=self._sampler,
            settings=self.config.augmentation,
            transforms=self._transforms,
            mirror_axes=self.configuration.patch_axes(self.config.mirror_axes or ()),
            spacing_mm=self.configuration.patch_spacing_mm,
            batch_size=batch_size,
            iterations=self._iterations,
            samples=self._devices.share(batch_size),
        )
        workers = default_workers(self.task.device) if self.config.workers is None else self.config.workers
        return load_batches(batches, steps, workers=workers)
