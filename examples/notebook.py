# %% [markdown]
# # A training loop in a notebook
#
# Each `# %%` begins a cell: VS Code, Spyder, PyCharm and Jupyter (with jupytext) open this file as a notebook. The samples are
# those of `headwater demo --write target/small --small --samples 400`.

# %%
import os

import torch
from torch.nn.functional import mse_loss

import headwater as hw

SOURCE = os.environ.get("SOURCE", "target/small")
dataset = hw.StreamingDataset(SOURCE, pairs={"latents": "latent_*", "conditions": "condition_*"})
dataset

# %% A sample, read when it is looked at
sample = dataset[3]
print(sample["__key__"], sample["latents"]["latents"].shape, sample["latents"]["fps"])

# %%
loader = hw.StreamingDataLoader(dataset, batch_size=4, shuffle=True, seed=0, drop_last=True)
torch.manual_seed(0)
model = torch.nn.Linear(32, 32)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

# %% Train for an epoch. The stop button ends a wait for a batch at once; run the cell again, and it goes on where it stood.
loader.load_state_dict(loader.state_dict())  # the place it is at; a pass begins the next epoch otherwise
losses = []
for batch in loader:
    rows = batch["latents"]["latents"]
    loss = mse_loss(model(rows[..., :-1, :]), rows[..., 1:, :])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
print(f"{len(losses)} steps, loss {losses[-1]:.4f}")

# %% What was waited for
{name: seconds for name, seconds in loader.stats().items() if name.startswith("loader_stall_")}

# %% Save model and place together, and go on from them, here or in another process
torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, "notebook.pt")
saved = torch.load("notebook.pt", weights_only=True)
model.load_state_dict(saved["model"])
loader.load_state_dict(saved["loader"])
