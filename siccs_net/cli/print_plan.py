"""What siccs_plan_and_preprocess prints of a plan, and of what it will take."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siccs_net.cli.process import Run
    from siccs_net.io.dataset import Dataset
    from siccs_net.records.plan import MeasuredStep, Plan

_ORIGINS = {
    "paper": "stated by the paper",
    "library_default": "default of the library that the paper names",
    "assumed": "assumed (not stated by the paper, ours)",
    "rule:budget": "changed so that enough steps fit the time",
    "user": "set by you",
}


def print_plan(run: Run, plan: Plan) -> None:
    """Print a plan, configuration by configuration, and where its settings came from."""
    run.say(f"plan {plan.name!r} of {plan.dataset_name}: {plan.folds} folds, trainer {plan.trainer}")
    for name, configuration in plan.configurations.items():
        network, memory = configuration.network, configuration.memory
        run.say(f"  {name}")
        spacing = ", ".join("own" if value is None else f"{value:g}" for value in configuration.spacing_mm)
        rows: list[tuple[str, Any]] = [
            ("spacing", f"{spacing} mm"),
            ("median shape", _numbers(configuration.median_shape)),
            ("steps", " → ".join(step.step for step in configuration.steps)),
            ("patch size", _numbers(configuration.patch_size)),
            ("batch size", f"{configuration.batch_size}, {configuration.iterations_per_epoch} iterations an epoch"),
            *([("previous stage", configuration.previous_stage)] if configuration.previous_stage else []),
            ("network", f"{network.architecture}, stem stride {_numbers(network.stem_stride)}"),
            ("widths", _numbers(network.widths)),
        ]
        if memory is not None:
            rows.append(("parameters", f"{memory.parameters / 1e6:.2f} million"))
            if memory.forward_flops is not None:
                rows.append(("forward pass", f"{memory.forward_flops / 1e9:.4g} GFLOP a patch"))
            rows.append(
                (
                    "expected memory",
                    f"{memory.training_bytes / 2**30:.1f} GiB to train, "
                    f"{memory.inference_bytes / 2**30:.1f} GiB to predict (closed form, bfloat16)",
                )
            )
        if (step := plan.measured.get(name)) is not None:
            rows.append(("measured", _describe_step(step)))
        for label, value in rows:
            run.say(f"    {label:<16} {value}")
    _print_provenance(run, plan)


def _print_provenance(run: Run, plan: Plan) -> None:
    """Say where each setting came from; several configurations' settings of one name are named once."""
    groups: dict[str, list[str]] = {}
    for path, origin in plan.provenance.items():
        named = groups.setdefault(origin, [])
        short = path.split(".", 2)[-1] if path.startswith("configurations.") else path
        named += [] if short in named else [short]
    for origin in sorted(groups, key=lambda name: (name not in _ORIGINS, name)):
        head = f"  {_ORIGINS.get(origin, origin)}: "
        run.say(textwrap.fill(head + ", ".join(sorted(groups[origin])), 120, subsequent_indent=" " * 6))


def _describe_step(step: MeasuredStep) -> str:
    extra = f", {step.gradient_accumulation} parts a batch" if step.gradient_accumulation > 1 else ""
    extra += ", checkpointing" if step.checkpointing else ""
    return (
        f"{step.seconds:.3g} s a training iteration, peak {step.peak_bytes / 2**30:.2f} GiB, batch {step.batch_size} "
        f"in {step.precision} on {step.device}{extra}"
    )


def _numbers(values: Any) -> str:
    return "×".join(f"{value:g}" for value in values)


def print_expected(run: Run, dataset: Dataset, plan: Plan) -> None:
    """Print what a plan will take of disk, memory and time; end of a dry run."""
    _print_expected_disk(run, dataset, plan)
    _print_expected_memory(run, dataset)
    _print_expected_work(run, plan)
    run.say("  nothing was written")


def _print_expected_memory(run: Run, dataset: Dataset) -> None:
    """Say what the largest scan takes as float32 with its label, for each worker; of NIfTI files headers are read."""
    from siccs_net.io.image import count_voxels
    from siccs_net.parallel import available_cpus

    workers = max(1, available_cpus() if run.args.workers is None else run.args.workers)
    voxels = max(count_voxels(case.images[0]) for case in dataset.cases.values())
    size = voxels * (4 * dataset.description.channels + 1) * workers
    run.say(
        f"  preprocessing: at least {size / 2**30:.2f} GiB of RAM (largest scan as float32 and its label, "
        f"{workers} at a time); -np takes fewer"
    )


def _print_expected_work(run: Run, plan: Plan) -> None:
    """Say how many iterations a training makes, and how long that takes where a step was measured."""
    epochs = plan.training.get("epochs")
    for name, configuration in plan.configurations.items():
        each = plan.training.get("iterations_per_epoch") or configuration.iterations_per_epoch
        step = plan.measured.get(name)
        if (budget := plan.training.get("budget_minutes")) is not None:
            counted = "" if step is None else f", about {60 * budget / step.seconds:.0f} iterations"
            run.say(f"  {name}: training takes {budget:g} min a fold{counted}, {budget * plan.folds:g} min in all")
            continue
        if epochs is None:
            counted, total = f"{each} iterations an epoch; epochs: the trainer's default", each
        else:
            total = each * epochs
            counted = f"{total} iterations a fold ({epochs} epochs), {total * plan.folds} for {plan.folds} folds"
        minutes = "" if step is None else f", about {total * step.seconds / 60:.3g} min a fold"
        minutes = minutes.replace("a fold", "an epoch") if epochs is None else minutes
        run.say(f"  {name}: training makes {counted}{minutes}")
    if not plan.measured:
        run.say("  how long that takes depends on the device: --measure takes a few steps")


def _print_expected_disk(run: Run, dataset: Dataset, plan: Plan) -> None:
    """Say how much the prepared cases will take at most (uncompressed)."""
    width = {"int16": 2, "uint16": 2, "float32": 4}
    for name, configuration in plan.configurations.items():
        z, y, x = configuration.median_shape
        voxel = width[configuration.storage] * configuration.channels + 1
        size = z * y * x * voxel * len(dataset.cases)
        cases = len(dataset.cases)
        run.say(f"  {name}: at most about {size / 2**30:.2f} GiB on disk for {cases} cases")
