"""DeepCluster-v2 against a float64 training loop written from the paper and its code, and planted faults."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from contrastive_clusters import DeepCluster, deepcluster, kmeans
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.device_draws import uniforms
from contrastive.distributed import rank, world_size
from contrastive.errors import UsageError
from contrastive.testing.equality import through_checkpoint
from contrastive.testing.processes import two_processes
from contrastive.values import Progress

W, PIXELS, IMAGES, B, PER_EPOCH, EPOCHS = 4, 7, 26, 8, 3, 4  # an epoch leaves two images out
LARGE, CROPS = (0, 1), (0, 1, 2)
PAIRS = [(crop, large) for crop in CROPS for large in LARGE if crop != large]
CLUSTERS, TEMPERATURE, LR, SEED = (3, 5, 4), 0.2, 0.7, 11
IDS = torch.randint(2**62, (IMAGES,), generator=torch.Generator().manual_seed(5))  # hashes, in no order


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def rows_at(step: int) -> Tensor:
    """Which images a step sees: [B]."""
    epoch, position = divmod(step, PER_EPOCH)
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch))
    return order[position * B : (position + 1) * B]


def crops(step: int) -> list[Tensor]:
    """The pixels of each crop of a step's images: [B, PIXELS]."""
    images = normal(IMAGES, PIXELS, seed=3)[rows_at(step)]
    return [images + 0.5 * normal(B, PIXELS, seed=200 + 10 * step + crop) for crop in CROPS]


def progress_at(step: int) -> Progress:
    return Progress(step, EPOCHS * PER_EPOCH, SEED, PER_EPOCH)


def starts(step: int, number: int, ids: Tensor) -> Tensor:
    """The ids of the images whose embeddings k-means starts from, which the authors draw at random."""
    ids = ids.sort().values
    drawn = uniforms(1, (SEED, step, "clusters", number), ids)[:, 0].argsort()
    return ids[drawn[: CLUSTERS[number]]]


def authors_clusters(
    memory: dict[int, dict[int, Tensor]], step: int
) -> tuple[list[Tensor], list[dict[int, int]]]:
    """cluster_memory: centroids [K, W] and id -> cluster, of each clustering."""
    every, assignments = [], []
    for number, count in enumerate(CLUSTERS):
        view = memory[LARGE[number % len(LARGE)]]
        ids = torch.tensor(list(view))
        centroids = torch.stack([view[int(image)] for image in starts(step, number, ids)])
        for iteration in range(11):
            own = {image: int((z @ centroids.T).argmax()) for image, z in view.items()}
            if iteration == 10:
                break
            for k in range(count):
                members = [view[image] for image, cluster in own.items() if cluster == k]
                if members:
                    centroids[k] = sum(members) / len(members)
            centroids = unit(centroids)
        every.append(centroids)
        assignments.append(own)
    return every, assignments


def authors_training() -> dict[str, Tensor]:
    """Losses and encoder of main_deepclusterv2.py, whose pass before training is the first epoch here."""
    encoder = normal(PIXELS, W, seed=1).requires_grad_()
    memory: dict[int, dict[int, Tensor]] = {large: {} for large in LARGE}
    losses, centroids, assignments = [], [], []
    for step in range(EPOCHS * PER_EPOCH):
        if step and step % PER_EPOCH == 0:
            centroids, assignments = authors_clusters(memory, step - 1)
            memory = {large: {} for large in LARGE}
        ids = IDS[rows_at(step)].tolist()
        z = [unit(x @ encoder) for x in crops(step)]
        loss = torch.zeros((), dtype=torch.float64)
        for own, assigned in zip(centroids, assignments, strict=True):
            targets = torch.tensor([assigned.get(image, -100) for image in ids] * len(CROPS))
            loss = loss + F.cross_entropy(torch.cat(z) @ own.T / TEMPERATURE, targets) / len(CLUSTERS)
        if assignments:
            encoder.data -= LR * torch.autograd.grad(loss, encoder)[0]
        for large in LARGE:
            memory[large] |= zip(ids, z[large].detach(), strict=True)
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), "encoder": encoder.detach()}


def new_loss(part: type[DeepCluster] = DeepCluster) -> DeepCluster:
    return part(W, list(CLUSTERS), TEMPERATURE).double()


def comparison_at(encoder: Tensor, step: int, rows: slice = slice(None)) -> Comparison:
    queries = {crop: x[rows] @ encoder for crop, x in enumerate(crops(step))}
    return Comparison.of(
        queries,
        {large: queries[large] for large in LARGE},
        images=IDS[rows_at(step)][rows],
        pairs=PAIRS,
        progress=progress_at(step),
        across_processes=True,
    )


def average(x: Tensor) -> Tensor:
    """Over processes, as data parallelism averages gradients."""
    x = x.clone()
    if world_size() > 1:
        torch.distributed.all_reduce(x)
    return x / world_size()


def train(loss: DeepCluster, encoder: Tensor, steps: range) -> list[Tensor]:
    """Take steps as the engine does; returns their losses."""
    losses = []
    for step in steps:
        share = B // world_size()
        comparison = comparison_at(encoder, step, slice(rank() * share, (rank() + 1) * share))
        value = loss(comparison)
        gradient = torch.autograd.grad(value, encoder)[0]
        with torch.no_grad():
            loss.before_step(progress_at(step))
            encoder -= LR * average(gradient)
            loss.after_batch(comparison)
            loss.after_step(progress_at(step))
        losses.append(average(value.detach()))
    return losses


def training(part: type[DeepCluster] = DeepCluster) -> dict[str, Tensor]:
    loss, encoder = new_loss(part), normal(PIXELS, W, seed=1).requires_grad_()
    losses = train(loss, encoder, range(EPOCHS * PER_EPOCH))
    return {"losses": torch.stack(losses), "encoder": encoder.detach()}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# -- the paper ----------------------------------------------------------------------------------------------


def test_training_is_the_authors():
    expected = authors_training()
    assert (expected["losses"][PER_EPOCH:] > 0.1).all()
    assert difference(training(), expected) < 1e-11


class OneView(DeepCluster):
    """Every clustering is of the first view."""

    def after_batch(self, comparison):
        super().after_batch(comparison)
        self.memory = self.memory[:1].expand(2, -1, -1).clone()


class NewClustersEachStep(DeepCluster):
    def after_step(self, progress):
        super().after_step(Progress(progress.step, progress.steps, progress.seed, 1))


class EveryImageCounts(DeepCluster):
    """Images without clusters have those of the first one that has."""

    def compare(self, comparison):
        if len(self.members):
            known = torch.isin(comparison.queries.image, self.members)
            comparison.queries.image[~known] = self.members[0]
        return super().compare(comparison)


class LocalMemory(DeepCluster):
    """Each process clusters its own images."""

    def after_batch(self, comparison):
        super().after_batch(replace(comparison, across_processes=False))


@pytest.mark.parametrize(
    "part", [OneView, NewClustersEachStep, EveryImageCounts], ids=lambda part: part.__name__
)
def test_the_comparison_with_the_authors_finds_the_fault(part):
    assert difference(training(part), authors_training()) > 1e-4


def test_centroids_of_any_length_are_found(monkeypatch):
    monkeypatch.setattr(deepcluster.F, "normalize", lambda x: x)
    loss, encoder = new_loss(), normal(PIXELS, W, seed=1).requires_grad_()
    train(loss, encoder, range(PER_EPOCH + 1))
    assert (loss.centroids.norm(dim=1) - 1).abs().max() > 0.1


def test_two_processes_train_as_one():
    expected = authors_training()
    for found in two_processes(training):
        assert difference(found, expected) < 1e-11


def test_a_memory_of_the_own_images_is_found():
    expected = authors_training()
    assert any(difference(found, expected) > 1e-4 for found in two_processes(training, LocalMemory))


# -- epochs, memory and resume ------------------------------------------------------------------------------


def test_the_first_epoch_has_no_gradient():
    loss, encoder = new_loss(), normal(PIXELS, W, seed=1).requires_grad_()
    before = encoder.detach().clone()
    losses = train(loss, encoder, range(PER_EPOCH))
    assert not torch.stack(losses).any()
    assert torch.equal(encoder, before)
    assert loss.clusters.shape == (3, PER_EPOCH * B)
    assert loss.memory.numel() == loss.images.numel() == 0


@pytest.mark.parametrize("half", [2, 3, 5])  # within the first epoch, at its end, within the second
def test_a_resumed_run_continues_bit_for_bit(half):
    loss, encoder = new_loss(), normal(PIXELS, W, seed=1).requires_grad_()
    train(loss, encoder, range(half))
    state, saved = through_checkpoint(loss.state_dict(), "state"), encoder.detach().clone()
    rest = train(loss, encoder, range(half, EPOCHS * PER_EPOCH))
    fresh, encoder = new_loss(), saved.requires_grad_()
    fresh.load_state_dict(state)
    assert torch.equal(torch.stack(train(fresh, encoder, range(half, EPOCHS * PER_EPOCH))), torch.stack(rest))
    assert all(
        torch.equal(a, b)
        for a, b in zip(fresh.state_dict().values(), loss.state_dict().values(), strict=True)
    )


def test_the_order_of_the_batches_does_not_count():
    encoder, losses = normal(PIXELS, W, seed=1), (new_loss(), new_loss())
    for loss, order in zip(losses, ((0, 1, 2), (2, 0, 1)), strict=True):
        for step in order:
            loss.after_batch(comparison_at(encoder, step))
        loss.after_step(progress_at(PER_EPOCH - 1))
    assert all(map(torch.equal, *(loss.state_dict().values() for loss in losses)))


def test_more_clusters_than_images_are_refused():
    loss = DeepCluster(W, [4, 25]).double()
    with pytest.raises(UsageError, match=r"more clusters than an epoch has images; set numbers up to 24"):
        train(loss, normal(PIXELS, W, seed=1).requires_grad_(), range(PER_EPOCH))


def test_patches_are_refused():
    with pytest.raises(UsageError, match="level: image"):
        new_loss()(Comparison.of([normal(2, 3, W), normal(2, 3, W, seed=1)]))


# -- k-means ------------------------------------------------------------------------------------------------


def test_kmeans_finds_separate_clusters():
    centres = torch.eye(4, dtype=torch.float64)[:3]
    truth = torch.arange(60) % 3
    z = unit(centres[truth] + 0.1 * normal(60, 4))
    centroids, clusters = kmeans(z, z[:3].clone())
    assert torch.equal(clusters, truth)
    expected = unit(torch.stack([z[truth == k].mean(0) for k in range(3)]))
    torch.testing.assert_close(centroids, expected, rtol=1e-12, atol=1e-14)


def test_a_centroid_without_members_stays():
    z = unit(normal(20, W).abs())
    opposite = -unit(z.mean(0, keepdim=True))
    centroids, clusters = kmeans(z, torch.cat([z[:2], opposite]))
    assert not (clusters == 2).any()
    assert torch.equal(centroids[2:], opposite)


def test_kmeans_in_parts_is_the_same(monkeypatch):
    z = unit(normal(50, W))
    whole = kmeans(z, z[:6].clone())
    monkeypatch.setattr(deepcluster, "_SCORES", 6 * 7)
    for part, expected in zip(kmeans(z, z[:6].clone()), whole, strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-14)
