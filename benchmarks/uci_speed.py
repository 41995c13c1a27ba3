"""All splits of a UCI set in one program, over a plain torch loop that fits one network after the other.

    python -m benchmarks.uci_speed --data DIR

Both fit a network of the protocol of `benchmarks.uci` to every split, with one dropout rate and noise precision, for
4,000 epochs. Ours does all of it; torch does `--torch-epochs` of one split, scaled to all. They alternate, and what
counts is the median of the ratios of neighbours: of the time that passed, and of the time that processors computed,
which says more on a machine that others use too. Torch runs with one thread, which serves networks of this size best.
Compilation is reported beside.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._timing import environment
from benchmarks.uci import BATCH, LENGTH_SCALE, Part, fit_all, part, read


def torch_epoch(part: Part, rate: float, tau: float, hidden: int) -> Callable[[], None]:
    """One epoch of one network of the first split, data in memory."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.tensor(part.x[0]), torch.tensor(part.y[0])
    size, inputs = x.shape
    model = nn.Sequential(
        nn.Dropout(rate), nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(rate), nn.Linear(hidden, 1)
    )
    # The prior's term of −ELBO / N, in units of half a squared error.
    decay = LENGTH_SCALE**2 / ((1 - rate) * size * tau * float(part.unit[0]) ** 2)
    kernels = [p for p in model.parameters() if p.ndim == 2]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch() -> None:
        for batch in torch.randperm(size).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x[batch]), y[batch])
            (loss + decay * sum((w**2).sum() for w in kernels)).backward()
            optimizer.step()

    return epoch


def clock(function: Callable[[], Any]) -> np.ndarray:
    """Seconds that passed, and seconds that all threads computed."""
    start = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return np.subtract((time.perf_counter(), time.process_time()), start)


def compare(data: dict[str, np.ndarray], epochs: int, torch_epochs: int, pairs: int) -> dict[str, Any]:
    """Seconds of both and their ratios, of time that passed and of time that processors computed."""
    test = part(data, validation=False)
    splits, hidden = len(test.x), int(data["n_hidden"][0])
    rate, tau = float(data["dropout_rates"][0]), float(data["tau_values"][-1])
    scale = 1 / (np.sqrt(tau) * test.unit[:, None])
    arguments = [jax.random.split(jax.random.key(0), splits), test.x, test.y, jnp.full((splits, 1), rate)]
    num_steps = round(epochs * test.x.shape[1] / BATCH)
    start = time.perf_counter()
    how = {"noise": "grid", "hidden": hidden, "num_steps": num_steps}
    fit = fit_all.lower(*arguments, jnp.asarray(scale, jnp.float32), **how).compile()
    compiling = time.perf_counter() - start

    epoch = torch_epoch(test, rate, tau, hidden)
    for _ in range(5):
        epoch()
    ours, torchs = [], []
    for _ in range(pairs):
        torchs.append(clock(lambda: [epoch() for _ in range(torch_epochs)]) * splits * epochs / torch_epochs)
        ours.append(clock(lambda: fit(*arguments, jnp.asarray(scale, jnp.float32))))
    ratios = np.array(torchs) / np.array(ours)
    return {
        "splits": splits,
        "epochs": epochs,
        "our_steps": num_steps,
        "torch_steps": -(-test.x.shape[1] // BATCH) * epochs,
        "compile_seconds": compiling,
        "seconds": np.array(ours).tolist(),
        "torch_seconds": np.array(torchs).tolist(),
        "torch_epochs_run": torch_epochs,
        "ratio": float(np.median(ratios[:, 0])),
        "processor_ratio": float(np.median(ratios[:, 1])),
        "environment": environment(),
    }


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write to a file if asked."""
    # Else torch's threads spin between two epochs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("BDL_DATA")
    parser.add_argument("--data", type=Path, default=default and Path(default) / "uci", help="default: $BDL_DATA/uci")
    parser.add_argument("--set", default="concrete")
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--torch-epochs", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and what they were measured with")
    args = parser.parse_args(argv)
    if args.data is None:
        parser.error("pass --data DIR, or set BDL_DATA to the folder above `uci`")
    result = compare(read(args.data, args.set), args.epochs, args.torch_epochs, args.pairs)
    for who in ("seconds", "torch_seconds"):
        passed, computed = np.median(result[who], 0)
        print(f"{who:<14} {passed:8.1f} passed, {computed:8.1f} of processors")
    print(f"ratio          {result['ratio']:8.1f} passed, {result['processor_ratio']:8.1f} of processors; goal >= 15")
    print(f"compilation    {result['compile_seconds']:8.1f} s")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return result


if __name__ == "__main__":
    main()
