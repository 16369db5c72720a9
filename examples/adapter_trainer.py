"""A trainer as many exist: Accelerate, a torch `DataLoader`, a dataset that a configuration describes.

Of Headwater it knows one import line.

headwater demo --write target/small --small --samples 400
python examples/adapter_trainer.py run.json --checkpoint target/adapter

run.json: {"sources": [{"name": "latents", "type": "s3", "path": "s3://bucket/run/latents", "credentials": {...}},
{"name": "latents", "type": "local", "path": "/copy/latents"}, ...], "cache_size_gb": 4}. Of two sources of one name, the second
stands in for the first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from headwater.adapter import create_streaming_dataset_from_config


class Denoiser(torch.nn.Module):
    """A small transformer over the places of a latent, told of the text by its mean."""

    def __init__(self, channels: int, text: int, width: int = 32) -> None:
        super().__init__()
        self.into, self.out = torch.nn.Linear(channels, width), torch.nn.Linear(width, channels)
        self.text = torch.nn.Linear(text, width)
        layer = torch.nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, num_layers=2)

    def forward(self, noisy: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Noise of `noisy` [B, places, C] under texts [B, tokens, D]."""
        told: torch.Tensor = self.text(text.mean(1, keepdim=True))
        found: torch.Tensor = self.out(self.layers(self.into(noisy) + told))
        return found


def places_and_text(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [B, C, F, H, W] as [B, F·H·W, C], and embeddings [B, tokens, D]."""
    latents, conditions = batch["latent_conditions"]["latents"], batch["text_conditions"]
    return latents.flatten(2).mT.float(), conditions["prompt_embeds"].float()


def main() -> None:
    """What each process does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="JSON that create_streaming_dataset_from_config takes")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of checkpoints; gone on from the last one")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    args = parser.parse_args()

    # Its order is a function of seed and epoch, so that a resumed run can find its place.
    data = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), dataloader_config=data)
    dataset = create_streaming_dataset_from_config(json.loads(args.config.read_text()))
    loader = DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True)
    places, text = places_and_text(next(iter(loader)))
    torch.manual_seed(0)
    model = Denoiser(places.shape[-1], text.shape[-1])
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loader)
    step = 0
    if saved := sorted(args.checkpoint.glob("step-*")):
        accelerator.load_state(str(saved[-1]))
        step = int(saved[-1].name.removeprefix("step-"))

    for epoch in range(step // len(loader), args.epochs):
        loader.set_epoch(epoch)
        done = step - epoch * len(loader)
        for batch in skip_first_batches(loader, done) if done else loader:
            clean, text = places_and_text(batch)
            noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(step)).to(clean)
            loss = mse_loss(model(clean + noise, text), noise)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            step += 1
            accelerator.print(f"step {step} of {args.epochs * len(loader)}, loss {loss.item():.9f}", flush=True)
            if step % args.save_every == 0:
                accelerator.save_state(str(args.checkpoint / f"step-{step:08}"))
    counted = dataset.stats()
    accelerator.print(json.dumps({"failovers": counted["replica_failovers_total"], **dataset.get_cache_stats()}))
    accelerator.end_training()


if __name__ == "__main__":
    main()
