"""SimCLR in your own training loop. Some seconds on a CPU: python examples/simclr_loop.py"""

import numpy as np
import torch

from contrastive.augmentations import SimCLR
from contrastive.backbones import Timm
from contrastive.data import TrainLoader, augment, read
from contrastive.datasets import FashionMNISTSample
from contrastive.heads import MLP
from contrastive.losses import NTXent

torch.manual_seed(0)
table = FashionMNISTSample().table("train")  # 8,000 grey images of 28 x 28 pixels, inside the package
views = SimCLR(size=28, strength=0.5, scale=(0.3, 1.0)).pipelines()
loader = TrainLoader(table, views, batch_size=128, seed=0)

encoder = Timm(1, image_size=28, model="resnet10", stem="small", options={"width": 0.25, "stem_stride": 2})
head = MLP(encoder.features, dims=[128, 64])
nt_xent = NTXent(temperature=0.2)
optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=2e-3)

for epoch in range(1):
    for step, batch in enumerate(loader.epoch(epoch), start=1):
        view_a, view_b = augment(batch, views, seed=0, epoch=epoch, device="cpu")  # [128, 1, 28, 28] each
        loss = nt_xent(head(encoder(view_a)), head(encoder(view_b)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"epoch {epoch + 1}  step {step}  loss {loss.item():.3f}")

encoder.eval()
_, images = next(read(table, np.arange(8), size=28))  # float32 [8, 1, 28, 28] in [0, 1]
with torch.no_grad():
    print("features of 8 images:", list(encoder(images).shape))
