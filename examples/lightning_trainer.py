"""Lightning: the loader is one of its own making in a data module, and its place is in Lightning's checkpoints.

headwater demo --write target/small --small --samples 400
python examples/lightning_trainer.py target/small --checkpoint target/lightning --devices 2
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import mse_loss

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


class Latents(lightning.LightningDataModule):
    """Makes the loader when Lightning asks for it: only then does a process know its rank."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source

    def train_dataloader(self) -> hw.StreamingDataLoader:
        """Batches of this rank."""
        dataset = hw.StreamingDataset(self.source, pairs=PAIRS)
        return hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True)


class NextRow(lightning.LightningModule):
    """Predicts each row of a latent from the row above it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = torch.nn.Linear(32, 32)

    def training_step(self, batch: dict[str, Any]) -> torch.Tensor:
        """The loss of one batch."""
        rows = batch["latents"]["latents"]
        loss = mse_loss(self.model(rows[..., :-1, :]), rows[..., 1:, :])
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """How it learns."""
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def main() -> None:
    """Trains for some epochs in all, however often it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of checkpoints; gone on from the last one")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()

    saving = ModelCheckpoint(args.checkpoint, every_n_train_steps=args.save_every, save_last=True)
    trainer = lightning.Trainer(
        devices=args.devices,
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        max_epochs=args.epochs,
        callbacks=[saving],
        logger=False,
        enable_model_summary=False,
    )
    trainer.fit(NextRow(), Latents(args.source), ckpt_path="last")
    print(f"loss {trainer.callback_metrics['loss']:.4f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
