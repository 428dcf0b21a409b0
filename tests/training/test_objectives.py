"""Methods of several objectives: levels, hiding, passes, shared parts, matches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from contrastive.comparison import Comparison
from contrastive.heads import MLP, Linear, NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch, NoNegatives
from contrastive.parts import Head, Loss
from contrastive.targets import EMA, SharedEncoder, StopGrad
from contrastive.training import Match, Method, Objective
from contrastive.training.method import by_number
from contrastive.values import Progress
from contrastive.views import Marks, Tokens, View
from tests.support.patches import TinyPatches

B, G = 3, 6  # images, width of tokens
IDS = torch.arange(B)


class MeanSquare(Loss):
    """Squared distance of queries to their own keys."""

    normalised = False

    def compare(self, comparison: Comparison) -> Tensor:
        return torch.cat([(q - k).square().mean(1) for q, k in comparison.aligned()])


class Guess(Head):
    """A predictor that fills: the mean of the visible patches, moved by a layer of the position."""

    fills = True

    def __init__(self, width: int = G):
        super().__init__()
        self.out_features = width
        self.layer = nn.Linear(1, width).double()

    def at(self, tokens: Tokens, positions: Tensor) -> Tensor:
        mean = tokens.patches.mean(1).reshape(len(positions), *(1 for _ in positions.shape[1:]), -1)
        return mean + self.layer(positions[..., None].double())


def view(seed: int, side: int = 8, hidden: int | None = None, targets: Tensor | None = None) -> View:
    g = torch.Generator().manual_seed(seed)
    pixels = torch.rand(B, 2, side, side, generator=g, dtype=torch.float64)
    marks = Marks()
    if hidden is not None:
        count = (side // 2) ** 2
        order = np.argsort(np.random.default_rng(seed).random((B, count)), axis=1)
        mask = np.zeros((B, count), bool)
        np.put_along_axis(mask, order[:, :hidden], True, 1)
        marks = Marks.of_mask(mask)
    return View(pixels, marks.overlay(Marks(targets=targets)))


def image(**changes) -> Objective:
    parts = {
        "head": Linear(G, 4).double(),
        "predictor": None,
        "target": SharedEncoder(),
        "negatives": [InBatch()],
        "losses": [(1.0, NTXent(0.5))],
        "name": "whole",
    }
    return Objective(**(parts | changes))


def patch(**changes) -> Objective:
    return image(**({"head": NoHead(G), "level": "patch", "name": "dense"} | changes))


def compose(*objectives: Objective, shared: dict | None = None, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    return Method.of(TinyPatches(), objectives, shared or {}, joint=True)


def loss_of(method: Method, views: list[View]) -> Tensor:
    return method(views, IDS, None, Progress()).loss


def test_objectives_add_up_with_their_weights():
    views = [view(0), view(1)]
    whole, dense = image(weight=0.25), patch(weight=2.0)
    both = compose(whole, dense)
    output = both(views, IDS)
    one, other = (Method.of(both.backbone, [each], {}, True)(views, IDS).losses[0] for each in (whole, dense))
    torch.testing.assert_close(output.loss, 0.25 * one + 2 * other)
    torch.testing.assert_close(torch.stack(output.losses), torch.stack([one, other]))
    assert output.comparison is output.comparisons[0]


def test_patches_are_compared_with_the_same_position_of_the_other_view():
    views = [view(0), view(1)]
    method = compose(patch(predictor=None))
    a, b = (method.backbone.tokens(v).patches for v in views)
    torch.testing.assert_close(loss_of(method, views), NTXent(0.5)(a, b))


def test_every_view_and_way_of_hiding_passes_once():
    views = [view(0, hidden=5), view(1, hidden=5), view(2, side=4)]
    all_views = {"online_views": (0, 1, 2), "target_views": (0, 1)}
    method = compose(
        image(**all_views),
        image(name="other", online_views=(0, 1), target_views=(0, 1)),
        patch(
            hide="drop", predictor=Guess(), rows="masked", target=EMA(), same=True, negatives=[NoNegatives()]
        ),
    )
    loss_of(method, views)
    # whole: views 0 and 1 together, view 2; dropped: views 0 and 1 together; the target sees 0 and 1 whole
    shapes = [(2 * B, 2, 8, 8), (B, 2, 4, 4), (2 * B, 2, 8, 8)]
    assert method.backbone.passes == shapes
    [target] = [each for each in method.targets if isinstance(each, EMA)]
    assert target.encoder[0].passes == [(B, 2, 8, 8)] * 2


def test_a_hidden_pixel_reaches_no_query():
    views = [view(0, hidden=6)]
    for hide in ("drop", "replace"):
        method = compose(
            patch(
                hide=hide,
                rows="masked",
                predictor=Guess(),
                target=EMA(),
                same=True,
                online_views=(0,),
                target_views=(0,),
                losses=[(1.0, MeanSquare())],
                negatives=[NoNegatives()],
            )
        )
        pixels = views[0].data.clone().requires_grad_()
        [encoding] = method.encode({0: View(pixels, views[0].marks)})
        encoding[0].p.sum().backward()
        of_patches = torch.nn.functional.unfold(pixels.grad, 2, stride=2).abs().sum(1)  # [b, N]
        mask = views[0].marks.mask
        assert of_patches[mask].max() == 0
        assert (of_patches[~mask] > 0).all()


def test_masked_rows_are_the_hidden_patches_and_their_keys_are_of_the_whole_view():
    views = [view(0, hidden=6)]
    method = compose(
        patch(
            hide="drop",
            rows="masked",
            predictor=Guess(),
            target=EMA(),
            same=True,
            online_views=(0,),
            target_views=(0,),
            losses=[(1.0, MeanSquare())],
            negatives=[NoNegatives()],
        )
    )
    whole = method.backbone.tokens(views[0]).patches
    marks = views[0].marks
    visible = method.backbone.tokens(views[0], keep=marks.visible)
    guess = method.objectives[0].predictor
    expected = 0.0
    for i in range(B):
        for position in marks.hidden[i].tolist():
            query = visible.patches[i].mean(0) + guess.layer(torch.tensor([float(position)]).double())
            expected += (query - whole[i, position]).square().mean() / (B * 6)
    torch.testing.assert_close(loss_of(method, views), expected)


def test_targets_in_blocks_are_rows():
    targets = torch.tensor([[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]]])
    views = [view(0, hidden=6, targets=targets)]
    method = compose(
        patch(
            hide="drop",
            rows="targets",
            predictor=Guess(),
            target=EMA(),
            same=True,
            online_views=(0,),
            target_views=(0,),
            losses=[(1.0, MeanSquare())],
            negatives=[NoNegatives()],
        )
    )
    comparison = method(views, IDS).comparison
    assert comparison.queries.positions == 4
    assert torch.equal(comparison.matches[0, 0], targets.flatten(1))


def test_matches_by_features_are_the_most_similar_tokens():
    views = [view(0), view(1)]
    head = MLP(G, [5, 4], "none").double()
    method = compose(patch(head=head, match=Match("features", "tokens"), token_head=NoHead(G)))
    tokens = [torch.nn.functional.normalize(method.backbone.tokens(v).patches, dim=2) for v in views]
    matches = method(views, IDS).comparison.matches
    for o, t in ((0, 1), (1, 0)):
        for i in range(B):
            similarities = tokens[o][i] @ tokens[t][i].T
            assert torch.equal(matches[o, t][i], similarities.argmax(1))


def test_matches_by_location_are_the_nearest_in_the_image_and_only_the_closest_are_kept():
    boxes = [torch.tensor([[0.0, 0, 16, 16]] * B), torch.tensor([[4.0, 8, 8, 8]] * B)]
    mirrored = [torch.zeros(B, dtype=torch.bool), torch.tensor([True, False, True])]
    views = [
        View(view(n).data, Marks(box=box.double(), mirrored=flip))
        for n, (box, flip) in enumerate(zip(boxes, mirrored, strict=True))
    ]
    keep = 5
    method = compose(patch(match=Match("location", keep=keep), losses=[(1.0, MeanSquare())]))
    comparison = method(views, IDS).comparison
    assert comparison.queries.positions == keep

    def centre(view_number: int, i: int, position: int) -> np.ndarray:
        top, left, height, width = boxes[view_number][i].tolist()
        row, column = divmod(position, 4)
        x = (column + 0.5) / 4
        x = 1 - x if mirrored[view_number][i] else x
        return np.array([top + height * (row + 0.5) / 4, left + width * x])

    aligned = comparison.aligned()
    tokens = [method.backbone.tokens(v).patches for v in views]
    for (o, t), (queries, keys) in zip(comparison.pairs, aligned, strict=True):
        for i in range(B):
            distance = np.array(
                [[np.linalg.norm(centre(o, i, p) - centre(t, i, q)) for q in range(16)] for p in range(16)]
            )
            closest = sorted(range(16), key=lambda p: distance[p].min())[:keep]
            allowed = distance.min(1) <= distance[closest[-1]].min() + 1e-9
            for row in range(keep):
                q, k = queries.view(B, keep, -1)[i, row], keys.view(B, keep, -1)[i, row]
                p = next(p for p in range(16) if torch.equal(tokens[o][i, p], q))
                own = next(p for p in range(16) if torch.equal(tokens[t][i, p], k))
                assert allowed[p]
                assert distance[p, own] == pytest.approx(distance[p].min())


def test_one_average_serves_heads_of_several_objectives():
    views = [view(0), view(1)]
    target = EMA(0.5)
    whole, dense = image(target=target), patch(head=Linear(G, 5).double(), target=target)
    method = compose(whole, dense, shared={"target": target})
    names = set(method.state_dict())
    assert {"objectives.whole.head.layer.weight", "objectives.dense.head.layer.weight"} <= names
    assert {"target.encoder.1.layer.weight", "target.encoder.2.layer.weight"} <= names
    assert not any(name.startswith("objectives.dense.target") for name in names)
    for parameter in method.parameters():
        if parameter.requires_grad:
            parameter.data.add_(1)
    before = [p.clone() for p in target.encoder.parameters()]
    method.after_step(Progress())
    for old, new in zip(before, target.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.5)
    method(views, IDS)
    assert target.encoder[0].passes == [(B, 2, 8, 8)] * 2  # one pass per view for both objectives


def test_a_shared_part_hears_of_every_objective_in_order():
    heard: list[str] = []

    class Listening(SharedEncoder):
        def after_batch(self, comparison: Comparison) -> None:
            heard.append("patch" if comparison.matches else "image")

        def after_step(self, progress: Progress) -> None:
            heard.append("step")

    target = Listening()
    method = compose(image(target=target), patch(target=target), shared={"target": target})
    output = method([view(0), view(1)], IDS)
    method.after_batch(*output.comparisons)
    method.after_step(Progress())
    assert heard == ["image", "patch", "step"]


def test_shared_keys_are_the_queries_themselves():
    method = compose(patch(target=SharedEncoder()))
    comparison = method([view(0), view(1)], IDS).comparison
    assert comparison.queries is comparison.own_keys


@pytest.mark.parametrize("target", [SharedEncoder, StopGrad, EMA])
def test_gradients_equal_those_of_a_plain_graph(target):
    """Of two objectives, one of patches, against losses written on the backbone's tokens."""
    views = [view(0), view(1)]
    whole, dense = image(target=target()), patch(target=target(), head=Linear(G, 5).double())
    method = compose(whole, dense)
    loss_of(method, views).backward()
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    tokens = [method.backbone.tokens(v) for v in views]
    z = [whole.head(t.h) for t in tokens]
    patches = [dense.head.of_rows(t.patches) for t in tokens]

    def keys(x: list[Tensor]) -> list[Tensor]:
        return x if target is SharedEncoder else [each.detach() for each in x]

    ids = {"images": IDS}
    loss = NTXent(0.5)(Comparison.of(z, keys(z), **ids)) + NTXent(0.5)(
        Comparison.of(patches, keys(patches), **ids)
    )
    loss.backward()
    for name, p in method.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(gradients[name], p.grad, rtol=1e-7, atol=1e-10)


def test_views_without_a_mask_pass_whole():
    views = [view(0, hidden=5), view(1)]
    method = compose(image(hide="drop"))
    encodings = method.encode(by_number(views))
    torch.testing.assert_close(encodings[0][1].z, method.objectives[0].head(method.backbone(views[1].data)))
    masked = method.backbone.tokens(views[0], keep=views[0].marks.visible)
    torch.testing.assert_close(encodings[0][0].z, method.objectives[0].head(masked.h))
