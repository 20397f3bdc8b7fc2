"""plan.json: everything needed to preprocess, build the network and predict, for every fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from siccs_net.geometry import ANATOMICAL_AXES
from siccs_net.records.base import Record
from siccs_net.records.inheritance import resolve_inheritance
from siccs_net.records.network import NetworkSpec


class Orient(Record):
    """Canonical LPS orientation [z, y, x], then this order of axes."""

    step: Literal["orient"] = "orient"
    transpose: tuple[int, int, int] = (0, 1, 2)


class AsStored(Record):
    """The file's own order of voxels instead of Orient, for plans of programs that never reorient: [k, j, i].

    `order` "RAS+" turns to the closest axes with x to the right, y to the front and z up first, as nnU-Net's
    reorienting readers do. `transpose` is the order of the axes after that.
    """

    step: Literal["as_stored"] = "as_stored"
    order: Literal["file", "RAS+"] = "file"
    transpose: tuple[int, int, int] = (0, 1, 2)


class CropNonzero(Record):
    """Crop to the box of the voxels that are not 0 in every channel (nnU-Net's crop)."""

    step: Literal["crop_nonzero"] = "crop_nonzero"


class ChannelIntensities(Record):
    """How the step `normalise` changes one channel, with the numbers that a plan carries.

    `ct`: clip to [lower, upper], subtract mean, divide by std. `zscore`: each image's own mean and deviation, with
    `nonzero_only` those of the voxels inside its nonzero region (holes filled), which alone are changed.
    `rescale_to_0_1`: each image's own range. `rgb_to_0_1`: divide by 255. `none`: nothing.
    """

    scheme: Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]
    nonzero_only: bool = False
    lower: float | None = None
    upper: float | None = None
    mean: float | None = None
    std: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _complete(self) -> ChannelIntensities:
        if self.scheme == "ct" and None in (self.lower, self.upper, self.mean, self.std):
            raise ValueError("the scheme ct needs lower, upper, mean and std")
        return self


class Normalise(Record):
    """Normalise before what follows, as nnU-Net does before it resamples; one entry a channel."""

    step: Literal["normalise"] = "normalise"
    channels: tuple[ChannelIntensities, ...]


class CropBody(Record):
    """Crop to the box of the largest component above a threshold, with a margin."""

    step: Literal["crop_body"] = "crop_body"
    threshold_hu: float = -500.0
    margin_mm: float = Field(default=10.0, ge=0.0)


class Resample(Record):
    """Resample to a spacing (plan axes, mm; null keeps an axis as it is); `order` is the image's interpolation.

    Thick slices (spacing ratio above `separate_above`) are interpolated within slices and taken from the nearest
    slice across them; null interpolates along every axis. `antialias` smooths before downsampling.
    """

    step: Literal["resample"] = "resample"
    spacing_mm: tuple[float | None, float, float]
    order: Literal[0, 1, 3] = 3
    separate_above: float | None = 3.0
    antialias: bool = False


class Resize(Record):
    """Resize to a fixed shape (plan axes); `mode` is area (adaptive mean) or linear; labels as in Resample."""

    step: Literal["resize"] = "resize"
    shape: tuple[int, int, int]
    mode: Literal["area", "linear"] = "area"


class Clahe(Record):
    """Window to [0, 1], then scikit-image's 3-D CLAHE, level for level; stored as levels of 1/65535.

    A tile has one `kernel_divisor`-th of the volume's voxels along each axis, at least one.
    """

    step: Literal["clahe"] = "clahe"
    window_hu: tuple[float, float]
    clip_limit: float = 0.01
    bins: int = 256
    kernel_divisor: int = 8


Step = Annotated[
    Orient | AsStored | CropBody | CropNonzero | Normalise | Resample | Resize | Clahe, Field(discriminator="step")
]


class ChannelNormalisation(Record):
    """How one channel is normalised when a patch is read; the numbers are the fold's (`Normalisation`).

    `region` says over which voxels of the prepared training cases the statistics run: all, or labelled ones.
    """

    scheme: Literal["ct", "zscore", "zscore_image", "rescale_to_0_1", "rgb_to_0_1", "none"]
    region: Literal["all", "foreground"] = "all"
    lower_percentile: float = Field(default=0.5, ge=0.0, le=100.0)
    upper_percentile: float = Field(default=99.5, ge=0.0, le=100.0)


class InferenceSettings(Record):
    """Sliding window: overlap of tiles as a fraction of the patch, Gaussian weights, mirrored axes.

    The Gaussian's peak lies in the middle of the patch or, as nnU-Net has it, on voxel size // 2 of each axis. Mirror
    axes have anatomical names; where voxels are taken as stored they are numbers, axes of the patch. Logits return to
    the scan by linear interpolation; `export_separate_above` takes the nearest slice across thick slices, as Resample.
    `skip_outside` "lung" runs no tile that does not touch the lungs' box, as all foreground of the training cases lies
    in it.
    """

    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    gaussian_sigma: float = Field(default=0.125, gt=0.0)
    gaussian_peak: Literal["middle", "voxel"] = "middle"
    export_separate_above: float | None = None
    mirror_axes: tuple[Literal["S-I", "A-P", "L-R", 0, 1, 2], ...] = ()
    skip_outside: Literal["lung"] | None = None


class MemoryFigures(Record):
    """Expected memory of training and prediction in bytes (`planners.memory`), and the work of one forward pass.

    `forward_flops` counts floating-point operations on one patch, a multiplication and an addition as two
    (`planners.flops`); a training step makes about three times as many a sample.
    """

    parameters: int
    training_bytes: int
    inference_bytes: int
    forward_flops: int | None = None


class MeasuredStep(Record):
    """What one training iteration cost on a machine: median seconds, and memory in bytes above an idle process.

    On a GPU the memory is what torch allocated there. `checkpointing` and `gradient_accumulation` are the settings it
    was measured with.
    """

    device: str
    precision: str
    threads: int
    batch_size: int
    checkpointing: bool
    gradient_accumulation: int
    seconds: float
    peak_bytes: int


class Configuration(Record):
    """One way to train on the dataset: its preprocessing, patch, batch, network and inference.

    The second stage of a cascade names its `previous_stage`, another configuration of the plan: its network takes
    the image and one channel for each foreground label of that stage's segmentation. `prepared_as` names the
    configuration whose prepared cases it shares (null: its own).
    """

    dimension: Literal[2, 3]
    steps: tuple[Step, ...]
    spacing_mm: tuple[float | None, float, float]
    median_shape: tuple[float, float, float]
    storage: Literal["int16", "uint16", "float32"]
    normalisation: tuple[ChannelNormalisation, ...]
    patch_size: tuple[int, ...]
    batch_size: int = Field(ge=1)
    iterations_per_epoch: int = Field(ge=1)
    batch_dice: bool = False
    network: NetworkSpec
    inference: InferenceSettings = Field(default_factory=InferenceSettings)
    memory: MemoryFigures | None = None
    previous_stage: str | None = None
    prepared_as: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Configuration:
        wrong = []
        if not self.steps or self.steps[0].step not in ("orient", "as_stored"):
            wrong.append("steps must begin with orient or as_stored")
        elif wrong_axes := _wrong_mirror_axes(self.steps[0].step, self.inference.mirror_axes, self.dimension):
            wrong.append(wrong_axes)
        if self.inference.skip_outside == "lung" and not self.tiles_hold_hu:
            wrong.append("inference.skip_outside finds lungs in HU, which the tiles do not hold: it must be null")
        if len(self.patch_size) != self.dimension or self.network.dimension != self.dimension:
            wrong.append(f"patch_size and network must have {self.dimension} dimensions")
        elif any(size % stride for size, stride in zip(self.patch_size, self.network.total_stride, strict=True)):
            wrong.append(
                f"patch_size {list(self.patch_size)} must be a multiple of the network's total stride "
                f"{list(self.network.total_stride)}"
            )
        if self.previous_stage is None and self.channels != self.network.in_channels:
            wrong.append("normalisation needs one entry a channel")
        if self.previous_stage is not None and self.stage_channels < 1:
            wrong.append("network.in_channels of a second stage counts the image's and the previous stage's labels")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.normalisation)

    @property
    def tiles_hold_hu(self) -> bool:
        """Whether intensities of prepared CT are still HU, in known orientation: what a search for lungs needs."""
        changed = any(step.step in ("clahe", "normalise") for step in self.steps)
        return self.steps[0].step == "orient" and not changed

    @property
    def stage_channels(self) -> int:
        """Number of the network's inputs that hold the previous stage's segmentation, one a foreground label."""
        return self.network.in_channels - self.channels

    @property
    def patch_spacing_mm(self) -> tuple[float, ...]:
        """Spacing of the patch axes in mm; an axis that keeps each scan's own counts as 1 mm."""
        return tuple(1.0 if spacing is None else spacing for spacing in self.spacing_mm[-self.dimension :])

    def patch_axes(self, names: Sequence[str | int]) -> tuple[int, ...]:
        """Return the patch axes of anatomical axes such as "L-R"; those outside a 2-D patch drop out.

        Numbers are patch axes already.
        """
        order, leading = self.orient.transpose, 3 - self.dimension
        places = [order.index(ANATOMICAL_AXES[name]) - leading if isinstance(name, str) else name for name in names]
        return tuple(place for place in places if place >= 0)

    @property
    def orient(self) -> Orient | AsStored:
        """The first step."""
        first = self.steps[0]
        if not isinstance(first, Orient | AsStored):
            raise TypeError("validated on construction")
        return first


def _wrong_mirror_axes(first_step: str, axes: Sequence[str | int], dimension: int) -> str | None:
    """Say what is wrong with mirror axes: where no one knows the orientation, an anatomical name means nothing."""
    numbers = [axis for axis in axes if isinstance(axis, int)]
    if first_step == "as_stored" and len(numbers) < len(axes):
        return "mirror_axes must be numbers of patch axes after as_stored"
    if first_step == "orient" and numbers:
        return "mirror_axes must have anatomical names after orient"
    if any(axis >= dimension for axis in numbers):
        return f"mirror_axes must be axes of a patch with {dimension} dimensions"
    return None


class Plan(Record):
    """The plan of a dataset: several configurations, the default trainer and its settings, and provenance.

    `training` holds trainer settings by name (they override the trainer's defaults and are overridden by `--set`).
    `provenance` maps a dotted path to where its value came from: `paper`, `library_default`, `assumed`,
    `measured`, `rule:NAME`, `user`, `inherits:CONFIGURATION` or `moved:DATASET/PLAN`. `measured` holds, by
    configuration, what a training step cost on the machine that planned, where that was asked for.
    """

    SCHEMA: ClassVar[str] = "siccs_net.plan"

    name: str
    dataset_name: str
    planner: str
    preset: str | None = None
    trainer: str
    folds: int = Field(ge=1)
    training: dict[str, Any] = Field(default_factory=dict)
    configurations: dict[str, Configuration]
    measured: dict[str, MeasuredStep] = Field(default_factory=dict)
    provenance: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stages_exist(self) -> Plan:
        wrong = []
        for name, item in self.configurations.items():
            stage, before = item.previous_stage, {name}
            while stage in self.configurations and stage not in before:
                before.add(stage)
                stage = self.configurations[stage].previous_stage
            if stage is not None:
                wrong.append(f"configurations.{name}.previous_stage leads to {stage!r}, which is no stage before it")
            shared = self.configurations.get(item.prepared_as or name, item)
            if (shared.steps, shared.storage, shared.dimension) != (item.steps, item.storage, item.dimension):
                wrong.append(
                    f"configurations.{name} cannot share the prepared cases of {item.prepared_as}: other steps"
                )
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @classmethod
    def _upgrade(cls, body: dict[str, Any]) -> dict[str, Any]:
        """Fill in what a configuration written by hand takes over by `inherits_from`."""
        configurations = body.get("configurations")
        if not isinstance(configurations, dict):
            return body
        return {**body, "configurations": resolve_inheritance(configurations)}

    def with_stages(self, names: Sequence[str]) -> set[str]:
        """Return configurations and every stage that comes before one of them."""
        found: set[str] = set()
        for name in names:
            stage: str | None = name
            while stage is not None and stage not in found:
                found.add(stage)
                stage = self.configurations[stage].previous_stage
        return found

    def prepared_name(self, configuration: str) -> str:
        """Return the name under which a configuration's prepared cases are kept."""
        return self.configurations[configuration].prepared_as or configuration
