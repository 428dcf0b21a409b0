"""What a guide is asked for, and which of its vectors belong to which rows."""

from __future__ import annotations

import pytest
import torch
from contrastive_negatives import GuidedNegatives

from contrastive.heads import NoHead
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.targets import EMA
from contrastive.training import Match
from contrastive.views import take
from tests.support.dense import unit
from tests.support.guides import Pixels
from tests.training.test_objectives import IDS, B, G, Guess, compose, image, patch, view


def guided(guide: Pixels, **changes) -> dict:
    return {"negatives": [InBatch(), GuidedNegatives(guide)], "losses": [(1.0, NTXent(0.5))]} | changes


def test_a_guide_sees_the_views_that_are_compared_once_and_is_no_target():
    guide, views = Pixels(), [view(number) for number in range(3)]
    method = compose(image(**guided(guide, target=EMA(), online_views=(0,), target_views=(1,))))
    (comparison,) = method(views, IDS).comparisons
    assert guide.views == [0, 1]
    assert guide in method.targets
    assert method.target is not guide
    (own,) = comparison.guides
    assert [*own.queries] == [0]
    assert [*own.keys] == [1]
    assert torch.equal(own.queries[0], unit(views[0].data.flatten(1)))
    assert torch.equal(own.keys[1], unit(views[1].data.flatten(1)))


def test_objectives_may_share_a_guide_which_answers_both_in_one_call():
    guide = Pixels()
    method = compose(image(**guided(guide)), patch(**guided(guide)))
    whole, dense = method([view(0), view(1)], IDS).comparisons
    assert guide.views == [0, 1, 0, 1]
    assert [*whole.guides[0].keys[0].shape] == [B, 128]
    assert [*dense.guides[0].keys[0].shape] == [B * 16, 8]


@pytest.mark.parametrize("keep", [None, 2])
def test_rows_of_patches_have_the_vectors_of_their_positions(keep):
    guide, views = Pixels(), [view(number, hidden=6) for number in range(2)]
    own = guided(guide, head=NoHead(G), predictor=Guess(), target=EMA(), hide="drop", rows="masked")
    same = keep is None
    match = Match() if same else Match("features", "z", keep)
    if not same:
        own |= {"hide": None, "predictor": None, "rows": "masked"}
    method = compose(patch(**own, same=same, match=match))
    encodings = method.encode(dict(enumerate(views)))
    sides = method.sides(dict(enumerate(views)), encodings, method.keys(dict(enumerate(views)), encodings))
    (vectors,) = sides[0].guides.values()
    for number, each in enumerate(views):
        rows = each.marks.hidden
        rows = rows if same else rows.gather(1, sides[0].subset[number])
        patches = Pixels._vectors(each.data, "patch")
        assert torch.equal(vectors.queries[number], take(patches, rows))
        assert torch.equal(vectors.keys[number], patches)


def test_its_candidates_follow_the_guide_alone():
    """Two equal images are no negatives of each other, whatever the encoder makes of them."""
    views = [view(0), view(1)]
    for each in views:
        each.data[1] = each.data[0]
    guide = Pixels()
    (plain,) = compose(image()).forward(views, IDS).comparisons
    (own,) = (
        compose(image(**guided(guide, negatives=[InBatch(), GuidedNegatives(guide, bound=0.999)])))
        .forward(views, IDS)
        .comparisons
    )
    assert plain.rows().negatives.count.tolist() == [4] * 6
    assert own.rows().negatives.count.tolist() == [3, 3, 4, 3, 3, 4]
