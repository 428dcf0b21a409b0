"""SwAV against a float64 training loop written from the paper and its code, and planted faults."""

from __future__ import annotations

import pytest
import torch
from contrastive_clusters import SwAV, sinkhorn
from torch import Tensor

from contrastive.comparison import Comparison
from contrastive.distributed import rank, world_size
from contrastive.errors import UsageError
from contrastive.testing.equality import through_checkpoint
from contrastive.testing.processes import two_processes
from contrastive.values import Progress

B, K, W, PIXELS, QUEUE, STEPS = 6, 5, 4, 7, 12, 6
LARGE, CROPS = (0, 1), (0, 1, 2, 3)
PAIRS = [(crop, large) for crop in CROPS for large in LARGE if crop != large]
TEMPERATURE, EPSILON, LR = 0.3, 0.4, 0.7
SETTINGS = {
    "prototypes": K,
    "temperature": TEMPERATURE,
    "epsilon": EPSILON,
    "queue": QUEUE,
    "queue_from": 0.4,
}
#: The queue is full after two steps and takes part from the fourth of six on.
#: Prototypes learn from the second.
FROZEN = 0.15


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def crops(step: int) -> list[Tensor]:
    """The pixels of each crop: [B, PIXELS]."""
    image = normal(B, PIXELS, seed=100 + step)
    return [image + 0.5 * normal(B, PIXELS, seed=200 + 10 * step + crop) for crop in CROPS]


def weights() -> tuple[Tensor, Tensor]:
    """Encoder [PIXELS, W] and prototypes [K, W], not of unit length."""
    return normal(PIXELS, W, seed=1).requires_grad_(), normal(K, W, seed=2).requires_grad_()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def even(scores: Tensor) -> Tensor:
    """Three iterations on exponentials [K, B], as in algorithm 1 of the paper."""
    q = scores.exp().T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / q.shape[0]
        q = q / q.sum(0, keepdim=True) / q.shape[1]
    return (q * q.shape[1]).T


def authors_training() -> dict[str, Tensor]:
    """Losses, encoder and prototypes after the steps, as main_swav.py takes them, with plain SGD."""
    encoder, prototypes = weights()
    queue = {large: torch.zeros(0, W, dtype=torch.float64) for large in LARGE}
    losses = []
    for step in range(STEPS):
        prototypes.data.copy_(unit(prototypes.data))
        z = [unit(x @ encoder) for x in crops(step)]
        scores = [each @ prototypes.T for each in z]
        loss = torch.zeros((), dtype=torch.float64)
        for large in LARGE:
            with torch.no_grad():
                rows = scores[large]
                if step >= 0.4 * STEPS and len(queue[large]) == QUEUE:
                    rows = torch.cat([queue[large] @ prototypes.T, rows])
                codes = even(rows / EPSILON)[-B:]
                queue[large] = torch.cat([queue[large], z[large]])[-QUEUE:]
            for crop in CROPS:
                if crop != large:
                    predictions = (scores[crop] / TEMPERATURE).exp()
                    predictions = predictions / predictions.sum(1, keepdim=True)
                    loss = loss - (codes * predictions.log()).sum(1).mean()
        loss = loss / (len(CROPS) - 1) / len(LARGE)
        gradients = torch.autograd.grad(loss, [encoder, prototypes])
        encoder.data -= LR * gradients[0]
        if step >= FROZEN * STEPS:
            prototypes.data -= LR * gradients[1]
        losses.append(loss.detach())
    return {
        "losses": torch.stack(losses),
        "encoder": encoder.detach(),
        "prototypes": unit(prototypes.detach()),
    }


def new_loss(part: type[SwAV], **settings: float) -> SwAV:
    loss = part(W, **{**SETTINGS, "frozen": FROZEN, **settings}).double()
    with torch.no_grad():
        loss.prototypes.copy_(unit(weights()[1]))
    return loss


def comparison_at(encoder: Tensor, step: int) -> Comparison:
    """Of this process's rows."""
    share = B // world_size()
    rows = slice(rank() * share, (rank() + 1) * share)
    queries = {crop: x[rows] @ encoder for crop, x in enumerate(crops(step))}
    keys = {large: queries[large].detach() for large in LARGE}
    return Comparison.of(queries, keys, pairs=PAIRS, progress=Progress(step, STEPS), across_processes=True)


def average(x: Tensor) -> Tensor:
    """Over processes, as data parallelism averages gradients."""
    x = x.clone()
    if world_size() > 1:
        torch.distributed.all_reduce(x)
    return x / world_size()


def train(loss: SwAV, encoder: Tensor, steps: range) -> list[Tensor]:
    """Take steps as the engine does; returns their losses."""
    losses = []
    for step in steps:
        comparison, progress = comparison_at(encoder, step), Progress(step, STEPS)
        value = loss(comparison)
        encoder.grad, loss.prototypes.grad = torch.autograd.grad(value, [encoder, loss.prototypes])
        with torch.no_grad():
            loss.before_step(progress)
            for parameter in (encoder, loss.prototypes):
                if parameter.grad is not None:
                    parameter -= LR * average(parameter.grad)
            loss.after_batch(comparison)
            loss.after_step(progress)
        losses.append(average(value.detach()))
    return losses


def training(part: type[SwAV] = SwAV) -> dict[str, Tensor]:
    loss, encoder = new_loss(part), weights()[0]
    losses = train(loss, encoder, range(STEPS))
    return {
        "losses": torch.stack(losses),
        "encoder": encoder.detach(),
        "prototypes": unit(loss.prototypes.detach()),
    }


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


# -- the paper ----------------------------------------------------------------------------------------------


def test_training_is_the_authors():
    assert difference(training(), authors_training()) < 1e-12


class CodesCarryGradients(SwAV):
    def _codes(self, comparison, key, view):
        own = self._earlier(comparison, view).to(key)
        scores = self._scores(torch.cat([own, key])) / self.epsilon
        return sinkhorn.__wrapped__(scores, gather=comparison.gather, common=len(own))[len(own) :]


class QueueHoldsTheBatch(SwAV):
    def compare(self, comparison):
        super().after_batch(comparison)
        return super().compare(comparison)

    def after_batch(self, comparison):
        pass


class PrototypesOfAnyLength(SwAV):
    def after_step(self, progress):
        pass


class QueueFromTheStart(SwAV):
    def _earlier(self, comparison, view):
        return (
            self.queue[comparison.key_views.index(view)]
            if len(self.queue)
            else super()._earlier(comparison, view)
        )


class OneQueueForAll(SwAV):
    def _earlier(self, comparison, view):
        return super()._earlier(comparison, comparison.key_views[0])


class NeverFrozen(SwAV):
    def before_step(self, progress):
        pass


class CodesOfLocalRows(SwAV):
    def _codes(self, comparison, key, view):
        own = self._earlier(comparison, view).to(key)
        return sinkhorn(self._scores(torch.cat([own, key])) / self.epsilon)[len(own) :]


FAULTS = (
    CodesCarryGradients,
    QueueHoldsTheBatch,
    PrototypesOfAnyLength,
    QueueFromTheStart,
    OneQueueForAll,
    NeverFrozen,
)


@pytest.mark.parametrize("part", FAULTS, ids=lambda part: part.__name__)
def test_the_comparison_with_the_authors_finds_the_fault(part):
    assert difference(training(part), authors_training()) > 1e-4


def test_two_processes_train_as_one():
    expected = authors_training()
    for found in two_processes(training):
        assert difference(found, expected) < 1e-12


def test_sinkhorn_over_the_rows_of_a_process_is_found():
    expected = authors_training()
    assert all(difference(found, expected) > 1e-4 for found in two_processes(training, CodesOfLocalRows))


# -- codes, queue and prototypes ----------------------------------------------------------------------------


def test_the_shared_rows_of_sinkhorn_count_once():
    scores, shared = normal(8, K, seed=3), normal(3, K, seed=4)
    expected = even(torch.cat([shared, scores]))

    def gather(columns: Tensor) -> Tensor:
        """Those of two processes: this one, and one with the last four rows."""
        state.append(columns)
        return torch.cat([columns, next(others)])

    # Both processes in turn: the second one's sums of each step come from a run over all rows.
    logs, sums = torch.cat([shared, scores]), []
    for _ in range(3):
        sums.append(logs[7:].logsumexp(0, keepdim=True))
        logs = logs - logs.logsumexp(0)
        logs = logs - logs.logsumexp(1, keepdim=True)
    state, others = [], iter(sums)
    codes = sinkhorn(torch.cat([shared, scores[:4]]), gather=gather, common=3)
    assert len(state) == 3
    torch.testing.assert_close(codes, expected[:7], rtol=1e-12, atol=1e-14)


def test_prototypes_have_unit_length_from_the_start():
    loss = SwAV(W, K)
    torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(K))
    assert SwAV(W).prototypes.shape == (3000, W)


def test_the_queue_is_the_same_on_every_process_and_holds_the_newest():
    loss, encoder = new_loss(SwAV, queue=8), weights()[0].detach()
    for step in range(3):
        loss.after_batch(comparison_at(encoder, step))
    for view in LARGE:
        newest = torch.cat([unit(crops(step)[view] @ encoder) for step in range(3)])[-8:]
        torch.testing.assert_close(loss.queue[view], newest, rtol=1e-12, atol=1e-14)
    assert loss.queue.untyped_storage().nbytes() == loss.queue.numel() * loss.queue.element_size()


def test_without_a_queue_nothing_is_stored():
    loss = new_loss(SwAV, queue=0)
    loss.after_batch(comparison_at(weights()[0].detach(), 0))
    assert loss.queue.numel() == 0


@pytest.mark.parametrize("half", [1, 3])  # the queue is half full, and full
def test_a_resumed_run_continues_bit_for_bit(half):
    loss, encoder = new_loss(SwAV), weights()[0]
    first = train(loss, encoder, range(half))
    state, saved = through_checkpoint(loss.state_dict(), "state"), encoder.detach().clone()
    rest = train(loss, encoder, range(half, STEPS))
    fresh, encoder = new_loss(SwAV), saved.requires_grad_()
    fresh.load_state_dict(state)
    assert torch.equal(torch.stack(train(fresh, encoder, range(half, STEPS))), torch.stack(rest))
    assert len(first) == half
    assert all(
        torch.equal(a, b)
        for a, b in zip(fresh.state_dict().values(), loss.state_dict().values(), strict=True)
    )


def test_micro_batches_fill_the_queue_in_their_order():
    encoder, whole, parts = weights()[0].detach(), new_loss(SwAV), new_loss(SwAV)
    whole.after_batch(comparison_at(encoder, 0))
    for rows in (slice(0, 2), slice(2, 6)):
        queries = {crop: x[rows] @ encoder for crop, x in enumerate(crops(0))}
        parts.after_batch(Comparison.of(queries, {large: queries[large] for large in LARGE}, pairs=PAIRS))
    torch.testing.assert_close(parts.queue, whole.queue, rtol=1e-12, atol=1e-14)


def test_patches_are_refused():
    patches = [normal(2, 3, W), normal(2, 3, W, seed=1)]
    with pytest.raises(UsageError, match="codes: sinkhorn"):
        new_loss(SwAV)(Comparison.of(patches, patches, pairs=[(0, 1)]))
