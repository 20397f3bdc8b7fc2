"""The candidates: one way each to train a self-configured plan, and why it was worth a test."""

from __future__ import annotations

from dataclasses import dataclass

NNUNET, DEFAULT = "nnunet", "default"


@dataclass(frozen=True)
class Candidate:
    """A plan's settings and a training's, as after `--set`, and the trainer's name (None: the plan's)."""

    name: str
    why: str
    plan: tuple[str, ...] = ()
    training: tuple[str, ...] = ()
    trainer: str | None = None


HALF = ("spacing_mm=[1,2,2]",)
NATIVE = ("spacing_mm=[1,1,1]",)
STEM4 = (
    *NATIVE,
    "network.stem_stride=[4,4]",
    "network.widths=[32,64,128,256,512]",
    "network.strides=[[1,1],[2,2],[2,2],[2,2],[2,2]]",
    "network.kernel_sizes=[[7,7],[7,7],[7,7],[7,7],[7,7]]",
    "network.blocks_encoder=[1,1,3,1,1]",
    "network.blocks_decoder=[1,1,3,1,1]",
)
STRONG = (
    "augmentation.rotation_probability=0.5",
    "augmentation.scaling_probability=0.5",
    "augmentation.scale=[0.6,1.6]",
)
DRAWN = "network.initialisation=truncated_normal"
NARROW = (*HALF, "network.stem_stride=[1,1]", "network.widths=[16,32,64,128,256]")
NARROW_RESIDUAL = (
    *NARROW,
    "network.architecture=resenc_unet",
    DRAWN,
    "network.kernel_sizes=[[3,3],[3,3],[3,3],[3,3],[3,3]]",
    "network.blocks_encoder=[1,2,2,2,2]",
    "network.blocks_decoder=[1,1,1,1]",
)
RATE = {rate: f"learning_rate={rate}e-3" for rate in (2, 4, 8)}

FOCAL = ("loss.name=focal_dice", "loss.variant=monai")


def own(name: str) -> str:
    """Return the trainer of `trainers.py` as after `-tr`, from the repository's root."""
    return f"benchmarks/learn/trainers.py:{name}Trainer"


CANDIDATES = {
    one.name: one
    for one in (
        Candidate(NNUNET, "the peer: nnU-Net 2.8.1's own plan and trainer, its schedule stretched over the budget"),
        Candidate(DEFAULT, "what the two commands do when nobody says anything"),
        Candidate("native", "the default at the spacing of the scans: fewer steps, finer ones", NATIVE),
        Candidate("stem_4", "a quarter of the work, with all of the input's detail", STEM4, (RATE[2],)),
        Candidate("half", "half of the resolution: four times as many images a minute", HALF, (RATE[2],)),
        Candidate("half_rate_4", "in few steps a higher rate goes further", HALF, (RATE[4],)),
        Candidate("half_rate_8", "still further", HALF, (RATE[8],)),
        Candidate("half_batch_2", "twice as many steps of half as many images", HALF, (RATE[2], "batch_size=2")),
        Candidate("half_strong", "few cases, each seen often: more rotation and scaling", HALF, (RATE[4], *STRONG)),
        Candidate("half_ema", "averaged weights are smoother", HALF, (RATE[4], "ema_decay=0.99")),
        Candidate("half_plain", "AMSGrad never lets a step grow again", HALF, (RATE[4], "amsgrad=false")),
        Candidate("half_anywhere", "no place is drawn for its class", HALF, (RATE[4], "foreground_fraction=0.0")),
        Candidate("half_decay", "more weight decay against few cases", HALF, (RATE[4], "weight_decay=0.1")),
        Candidate("half_topk", "the loss of the hardest tenth of the voxels", HALF, (RATE[4], "loss.name=dice_topk")),
        Candidate("half_focal", "the paper's kind of loss", HALF, (RATE[4], *FOCAL)),
        Candidate("half_drawn", "weights drawn as ConvNeXt V2's", (*HALF, DRAWN), (RATE[4],)),
        Candidate("half_residual", "residual convolutions without a strided stem, narrow", NARROW_RESIDUAL, (RATE[2],)),
        Candidate("half_narrow", "the default's blocks without a strided stem, narrow", NARROW, (RATE[2],)),
        Candidate("half_growing", "small windows first: more steps", HALF, (RATE[4],), own("GrowingPatch")),
        Candidate("half_detail", "a head that sees the image too", HALF, (RATE[4],), own("Detail")),
        Candidate("three_quarters", "between half and whole resolution", ("spacing_mm=[1,1.5,1.5]",), (RATE[4],)),
        Candidate("rate_2", "the default at half of its rate", training=(RATE[2],)),
        Candidate("rate_8", "the default at twice its rate", training=(RATE[8],)),
        Candidate("strong", "the default with more rotation and scaling", training=STRONG),
    )
}
