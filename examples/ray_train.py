"""Ray Train: each worker streams its own samples; when one dies, all go on from the last report.

headwater demo --write target/small --small --samples 400
python examples/ray_train.py target/small --checkpoint target/ray --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import ray
import ray.train.torch
import torch
from torch.nn.functional import mse_loss

import headwater as hw

PAIRS = {"latents": "latent_*", "conditions": "condition_*"}  # latent_00001.pt ↔ condition_00001.pt


def loss_of(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model predicts each row of a latent from the row above it."""
    rows = batch["latents"]["latents"]
    return mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])


def train(config: dict[str, Any]) -> None:
    """What each worker does."""
    device = ray.train.torch.get_device()
    dataset = hw.StreamingDataset(config["source"], pairs=PAIRS)
    # Not through `prepare_data_loader`: it knows its rank, and brings its batches to the device.
    loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True, device=device)
    torch.manual_seed(0)
    model = ray.train.torch.prepare_model(torch.nn.Linear(32, 32))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    parts: dict[str, Any] = {"model": getattr(model, "module", model), "optimizer": optimizer, "loader": loader}
    step = 0
    if checkpoint := ray.train.get_checkpoint():
        with checkpoint.as_directory() as folder:
            saved = torch.load(Path(folder) / "state.pt", map_location=device, weights_only=True)
        step = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    steps = config["epochs"] * len(loader)
    while step < steps:
        for batch in loader:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % config["save_every"] == 0 or step == steps:
                stalls = {name: seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_")}
                with tempfile.TemporaryDirectory() as folder:
                    made = None
                    # The loader's state is the same on every worker: that of the first is kept.
                    if ray.train.get_context().get_world_rank() == 0:
                        state = {name: part.state_dict() for name, part in parts.items()}
                        torch.save({"step": step, **state}, Path(folder) / "state.pt")
                        made = ray.train.Checkpoint.from_directory(folder)
                    ray.train.report({"step": step, "loss": loss.item(), **stalls}, checkpoint=made)


def main() -> None:
    """Starts the workers, and starts them anew when one dies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder or URI of a demo set, seen by all workers")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the run, seen by all workers")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()

    ray.init(include_dashboard=False)
    on_gpus = torch.cuda.is_available()
    # A little less than a processor each, so that as many workers as processors leave Ray some.
    each = {"GPU": 1.0} if on_gpus else {"CPU": 0.9}
    scaling = ray.train.ScalingConfig(num_workers=args.workers, use_gpu=on_gpus, resources_per_worker=each)
    retry, place = ray.train.FailureConfig(max_failures=3), args.checkpoint.resolve()
    # A run of a name that exists is gone on with.
    run = ray.train.RunConfig(name=place.name, storage_path=str(place.parent), failure_config=retry)
    trainer = ray.train.torch.TorchTrainer(train, train_loop_config=vars(args), scaling_config=scaling, run_config=run)
    result = trainer.fit()
    print(result.metrics, result.checkpoint)


if __name__ == "__main__":
    main()
