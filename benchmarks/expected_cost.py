"""What the paper's preset should cost on two GPUs, computed: python -m benchmarks.expected_cost.

Memory is the planner's closed form. Time is a lower bound: the larger of what the operations take at the GPU's bfloat16
peak and what the activations take at its memory bandwidth (each kept byte written once and read once, and as much again
for what is not kept). No GPU was measured. Depthwise convolutions reach a small part of either, so expect several times
as much, and measure: `siccs_plan_and_preprocess … --measure`.
"""

from __future__ import annotations

from siccs_net.planners.flops import forward_flops
from siccs_net.planners.memory import training_memory
from siccs_net.planners.presets import PAPER_BLOCKS, PAPER_SHAPE, PAPER_WIDTHS
from siccs_net.records.network import NetworkSpec

# Vendor's figures: memory in GB, dense bfloat16 in TFLOP/s, bandwidth in TB/s.
GPUS = {"24 GB (RTX 4090)": (24, 165.0, 1.01), "80 GB (A100)": (80, 312.0, 2.04)}
STEPS = 35 * 100
FOLDS = 8


def paper_network() -> NetworkSpec:
    levels = len(PAPER_WIDTHS)
    return NetworkSpec(
        architecture="convnext_unet",
        dimension=3,
        in_channels=1,
        classes=4,
        widths=PAPER_WIDTHS,
        strides=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
        kernel_sizes=((7, 7, 7),) * levels,
        blocks_encoder=PAPER_BLOCKS,
        blocks_decoder=PAPER_BLOCKS,
        stem_stride=(1, 1, 1),
        deep_supervision=False,
    )


def main() -> None:
    network = paper_network()
    flops = forward_flops(network, PAPER_SHAPE)
    whole = training_memory(network, PAPER_SHAPE, 1, activation_bytes=2, checkpointing=False)
    print(f"{whole.parameters / 1e6:.2f} million parameters, {flops / 1e9:.0f} GFLOP a forward pass")
    for name, (memory, tflops, bandwidth) in GPUS.items():
        checkpointing = whole.total_bytes > memory * 2**30
        used = training_memory(network, PAPER_SHAPE, 1, activation_bytes=2, checkpointing=checkpointing)
        passes = 4 if checkpointing else 3
        moved = whole.activation_bytes * (5 if checkpointing else 4)
        seconds = max(passes * flops / (tflops * 1e12), moved / (bandwidth * 1e12))
        print(
            f"{name}: checkpointing={str(checkpointing).lower()}, {used.total_bytes / 2**30:.1f} GiB, at least "
            f"{seconds:.2f} s a step, {STEPS * seconds / 60:.0f} min a fold, {FOLDS * STEPS * seconds / 3600:.1f} h "
            f"for {FOLDS} folds"
        )


if __name__ == "__main__":
    main()
