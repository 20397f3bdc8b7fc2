"""The share of its time that a training waits for data, beside a device that is simulated by a sleep.

    python -m benchmarks.data_wait [--step-ms 50 100 150] [--batches 60] [--workers N]

The input is that of the stage `loader` of benchmarks.compare: three cases at 1 mm, patches of 96³ in batches of 2,
nnU-Net's list of augmentations. `--workers` is by default what a training takes beside a GPU here: a core less than
there are, at most 8. The share is measured as the training's log has it (`data_wait`), from the second batch on. A
sleep takes no processor time, as a step on a GPU takes little; 150 ms is about 13 patches a second.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.compare.training_input import BATCH, at_one_mm, our_training, store_ours


def main() -> None:
    arguments = _arguments()
    import torch

    from siccs_net.networks.numerics import default_workers

    workers = default_workers(torch.device("cuda")) if arguments.workers is None else arguments.workers
    with tempfile.TemporaryDirectory() as folder:
        store = store_ours(Path(folder) / "prepared", *at_one_mm())
        print(f"{workers} workers; batches of {BATCH}")
        print(f"{'step, ms':>10}{'patches/s':>11}{'waiting for data':>18}")
        for pause in arguments.step_ms:
            rate, share = wait_share(store, pause / 1e3, arguments.batches, workers)
            print(f"{pause:>10.0f}{rate:>11.1f}{share:>18.1%}", flush=True)


def wait_share(store: Any, pause: float, count: int, workers: int) -> tuple[float, float]:
    """Return patches a second and the share waited, with a sleep of `pause` seconds for every step."""
    from siccs_net.data.loader import Waited, load_batches

    batches = Waited(load_batches(our_training(store), [(0, number) for number in range(count + 1)], workers=workers))
    next(batches)
    batches.take_seconds()
    started = time.monotonic()
    for _ in batches:
        time.sleep(pause)
    seconds = time.monotonic() - started
    return BATCH * count / seconds, batches.take_seconds() / seconds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, nargs="+", default=[50.0, 100.0, 150.0])
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--workers", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
