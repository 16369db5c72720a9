"""A training loop beside other tasks of an event loop: it waits for batches on a thread, so that the others go on meanwhile.

headwater demo --write target/small --small --samples 400
python examples/async_loop.py target/small --checkpoint target/async.pt
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import mse_loss

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


def step_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """The model predicts each row of a latent from the row above it."""
    rows = batch["latents"]["latents"]
    loss = mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


async def batches_of(loader: hw.StreamingDataLoader) -> AsyncIterator[dict[str, Any]]:
    """A pass of the loader. A plain `for batch in loader` is right, too; but the event loop stands still while it waits."""
    batches = iter(loader)
    try:
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            yield batch
    finally:
        loader.close()  # what a cancelled task leaves waiting on its thread ends at once


async def tell(loader: hw.StreamingDataLoader) -> None:
    """Another task of the loop."""
    while True:
        await asyncio.sleep(1)
        stalls = {name: seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_")}
        print(f"waited {sum(stalls.values()):.2f} s for batches: {stalls}", flush=True)


async def train(args: argparse.Namespace) -> None:
    """Trains for some epochs in all, however often it is interrupted."""
    dataset = hw.StreamingDataset(args.source, pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "loader": loader}
    step = 0
    if args.checkpoint.exists():
        saved = torch.load(args.checkpoint, weights_only=True)
        step = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    telling = asyncio.create_task(tell(loader))
    steps = args.epochs * len(loader)
    while step < steps:
        async for batch in batches_of(loader):
            loss = await asyncio.to_thread(step_of, model, optimizer, batch)
            step += 1
            if step % args.save_every == 0 or step == steps:
                written = args.checkpoint.with_suffix(".new")
                torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, written)
                written.replace(args.checkpoint)
                print(f"step {step} of {steps}, loss {loss:.4f}", flush=True)
    telling.cancel()


def main() -> None:
    """Runs the event loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="gone on from where it exists")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    asyncio.run(train(parser.parse_args()))


if __name__ == "__main__":
    main()
