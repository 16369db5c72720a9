"""JAX without torch: batches are numpy arrays, which JAX puts on its device.

headwater demo --write target/small --small --samples 400
python examples/jax_numpy.py target/small --checkpoint target/jax.npz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt
Weights = dict[str, Any]


def loss_of(weights: Weights, rows: Any) -> Any:
    """The model predicts each row of a latent from the row above it."""
    predicted = rows[..., :-1, :] @ weights["matrix"] + weights["bias"]
    return ((predicted - rows[..., 1:, :]) ** 2).mean()


@jax.jit
def step_of(weights: Weights, rows: Any) -> tuple[Weights, Any]:
    """One step of gradient descent."""
    loss, gradients = jax.value_and_grad(loss_of)(weights, rows)
    return {name: weights[name] - 0.5 * gradients[name] for name in weights}, loss


def main() -> None:
    """Trains for some epochs in all, however often it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="gone on from where it exists")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    args = parser.parse_args()

    dataset = hw.StreamingDataset(args.source, pairs=PAIRS, framework="numpy")
    # JAX sets no environment that could be asked.
    ranks = {"rank": jax.process_index(), "world_size": jax.process_count()}
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True, **ranks)
    weights: Weights = {"matrix": np.zeros((32, 32), np.float32), "bias": np.zeros(32, np.float32)}
    step = 0
    if args.checkpoint.exists():
        saved = np.load(args.checkpoint)
        step, weights = int(saved["step"]), {name: saved[name] for name in weights}
        loader.load_state_dict(json.loads(str(saved["loader"])))

    steps = args.epochs * len(loader)
    while step < steps:
        for batch in loader:
            # The array is ours and stays as it is: JAX on processors may share its memory, elsewhere it copies.
            weights, loss = step_of(weights, batch["latents"]["latents"])
            step += 1
            if step % args.save_every == 0 or step == steps:
                written = args.checkpoint.with_suffix(".new.npz")
                np.savez(written, step=step, loader=json.dumps(loader.state_dict()), **weights)
                written.replace(args.checkpoint)
                print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)
    stalls = {name: seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_")}
    print(f"waited {sum(stalls.values()):.2f} s for batches: {stalls}")


if __name__ == "__main__":
    main()
