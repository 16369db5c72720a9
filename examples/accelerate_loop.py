"""Accelerate: it prepares model and optimizer; the loader already knows its rank, and is left alone.

headwater demo --write target/small --small --samples 400
accelerate launch --multi_gpu --num_processes 2 examples/accelerate_loop.py target/small --checkpoint target/accelerate
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.functional import mse_loss

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model predicts each row of a latent from the row above it."""
    rows = batch["latents"]["latents"]
    return mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])


def main() -> None:
    """What each process does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of checkpoints; gone on from the last one")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    args = parser.parse_args()

    # On processors alone, `accelerate launch --cpu` starts one process; `--multi_gpu` and this start as many as are asked for.
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    # After the Accelerator, which brings up torch.distributed. `prepare` would hand it back as it is: batches come to the
    # device by themselves, and `split_batches`, `even_batches` and `dispatch_batches` have nothing to do.
    dataset = hw.StreamingDataset(args.source, pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True, device=accelerator.device)
    torch.manual_seed(0)
    model = torch.nn.Linear(32, 32)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    # Into every `save_state`, in the order of registering.
    accelerator.register_for_checkpointing(loader)
    step = 0
    if saved := sorted(args.checkpoint.glob("step-*")):
        accelerator.load_state(str(saved[-1]))
        step = int(saved[-1].name.removeprefix("step-"))

    steps = args.epochs * len(loader)
    while step < steps:
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            if step % args.save_every == 0 or step == steps:
                accelerator.save_state(str(args.checkpoint / "new"))
                accelerator.wait_for_everyone()
                if accelerator.is_main_process:
                    (args.checkpoint / "new").rename(args.checkpoint / f"step-{step:08}")
                accelerator.wait_for_everyone()
                accelerator.print(f"step {step} of {steps}, loss {loss.item():.4f}", flush=True)
    waited = sum(seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_"))
    print(f"process {accelerator.process_index} of {accelerator.num_processes} waited {waited:.2f} s for batches")
    accelerator.end_training()


if __name__ == "__main__":
    main()
