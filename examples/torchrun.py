"""Data-parallel training: every rank streams its own samples, and all of them go on where the job was saved.

headwater demo --write target/small --small --samples 400
torchrun --standalone --nproc-per-node 2 examples/torchrun.py target/small --checkpoint target/torchrun.pt
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model predicts each row of a latent from the row above it."""
    rows = batch["latents"]["latents"]
    return mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])


def main() -> None:
    """What each rank does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="gone on from where it exists; seen by all ranks")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    args = parser.parse_args()

    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    # Before the loader is made, which asks it for its rank. There is no sampler to make and nothing to shard.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    dataset = hw.StreamingDataset(args.source, pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True, device=device)
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(32, 32).to(device))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts: dict[str, Any] = {"model": model.module, "optimizer": optimizer, "loader": loader}
    step = 0
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, map_location=device, weights_only=True)
        step = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    # The same on all ranks: none runs out of batches while others wait for its gradients.
    steps = args.epochs * len(loader)
    while step < steps:
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            # The loader's state is the same on every rank, also for a job of another number of ranks.
            if dist.get_rank() == 0 and (step % args.save_every == 0 or step == steps):
                written = args.checkpoint.with_suffix(".new")
                torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, written)
                written.replace(args.checkpoint)
                print(f"step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    waited = sum(seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_"))
    print(f"rank {dist.get_rank()} of {dist.get_world_size()} waited {waited:.2f} s for batches", flush=True)
    # They leave together: torchrun ends the others when one of them fails on its way out.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
