"""A training loop on one process: saves where it stands, and goes on from there when it is started again.

headwater demo --write target/small --small --samples 400
python examples/plain.py target/small --checkpoint target/plain.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model predicts each row of a latent from the row above it."""
    rows = batch["latents"]["latents"]
    return mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])


def main() -> None:
    """Trains for some epochs in all, however often it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="gone on from where it exists")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = hw.StreamingDataset(args.source, pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True, device=device)
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 32).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    step = 0
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, map_location=device, weights_only=True)
        step = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    steps = args.epochs * len(loader)
    while step < steps:
        # A pass begins the next epoch, or goes on in the middle of the one that was saved.
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % args.save_every == 0 or step == steps:
                written = args.checkpoint.with_suffix(".new")
                torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, written)
                written.replace(args.checkpoint)  # so that there is a whole one at any moment
                print(f"step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    stalls = {name: seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_")}
    print(f"waited {sum(stalls.values()):.2f} s for batches: {stalls}")


if __name__ == "__main__":
    main()
