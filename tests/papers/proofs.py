"""Every shipped method that is proven equal to a plain script of its paper: which script, and the comparison.

``scripts/equality_table.py`` prints what :data:`PROOFS` finds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contrastive.build import build
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.views import View
from tests.papers import method_scripts as scripts
from tests.papers import mixture_scripts as mixtures
from tests.papers import statistics_scripts as statistics
from tests.papers import support_scripts as support
from tests.papers.side_by_side import Differences, State, compare
from tests.papers.support_scripts import fill

RECIPES = Path(__file__).parents[2] / "recipes"
B, STEPS = 6, 3
LABELS = [0, 1, 2, 0, 1, 0]
#: Widths of heads and predictors: all but the last layer, and the last one.
HIDDEN, WIDTH = 12, 8


@dataclass(frozen=True)
class Proof:
    """A method of whole images, and the script that it is compared with.

    Attributes:
        script: the step by hand, which calls the formula of the paper.
        formula: where the formula is.
        changes: of the recipe, besides narrower networks.
        images: of a batch.
    """

    script: type[scripts.Script]
    formula: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    images: int = B

    def run(self, name: str) -> Differences:
        """Three steps of the recipe and of the script; fails if they are not equal to rounding."""
        recipe = small(name, self.changes)
        composition = build(recipe)[1]
        method = composition.method.double().train()
        script = self.script(recipe, method, STEPS)
        if script.starts_full:
            method.load_state_dict(fill(method.state_dict()))
        by_label = recipe.positives == "label"
        script.labels = LABELS if by_label else ()
        generator = torch.Generator().manual_seed(1)
        channels = method.backbone.net.conv1.in_channels
        batches = [
            [
                View(torch.rand(self.images, channels, *size, generator=generator, dtype=torch.float64))
                for size in composition.view_sizes
            ]
            for _ in range(STEPS)
        ]

        def loss(s: State, views: Sequence[View], step: int) -> Tensor:
            return script.loss(s, [view.data for view in views], step)

        labels = torch.tensor(LABELS) if by_label else None
        with ExitStack() as stack:
            for draws in script.draws:
                stack.enter_context(draws.watch())
            return compare(
                method,
                batches,
                loss,
                script.after_step,
                script.frozen,
                lambda key: key.endswith(script.rest),
                labels,
                script.is_new,
                script.rate,
            )


@functools.cache
def registry():
    return load_registry()


def small(name: str, changes: Mapping[str, Any]) -> Recipe:
    """A shipped recipe with narrow networks."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", (), registry())
    values: dict[str, Any] = {"backbone.options.width": 0.125}
    predictor = None if recipe.objectives else recipe.predictor
    for key, part in (("head", recipe.head), ("predictor", predictor)):
        if part is not None and part.name == "mlp":
            values[f"{key}.dims"] = [HIDDEN] * (len(part.params["dims"]) - 1) + [WIDTH]
    return load_recipe(RECIPES / f"{name}.yaml", values | dict(changes), registry())


#: The first step has an empty queue, so a loss of 0 and gradients of rounding alone. Branches that start at
#: zero would then be above or below it by rounding, as the CPU decides.
SPLIT = {"target.groups": 2, "backbone.options.zero_init_last": False}
PROOFS: dict[str, Proof] = {
    "simclr": Proof(scripts.SimCLR, "negatives_scripts.nt_xent"),
    "supcon": Proof(scripts.SupCon, "negatives_scripts.sup_con"),
    "simclr_queue": Proof(
        scripts.SimCLRWithQueue,
        "negatives_scripts.with_queue",
        {"negatives.1.size": 15},
    ),
    "simclr_v2": Proof(scripts.SimCLR, "negatives_scripts.nt_xent"),
    "dcl": Proof(scripts.DCL, "negatives_scripts.dcl"),
    "dclw": Proof(scripts.DCLW, "negatives_scripts.dclw"),
    "sigmoid": Proof(scripts.Sigmoid, "negatives_scripts.sigmoid"),
    "debiased": Proof(scripts.Debiased, "negatives_scripts.debiased"),
    "hard_negative": Proof(scripts.HardNegative, "negatives_scripts.hard_negative"),
    "moco_v1": Proof(
        scripts.MoCo,
        "negatives_scripts.moco",
        {**SPLIT, "negatives.size": 15, "head.dim": WIDTH},
    ),
    "moco_v2": Proof(scripts.MoCo, "negatives_scripts.moco", {**SPLIT, "negatives.size": 15}),
    "moco_v3": Proof(scripts.MoCoV3, "negatives_scripts.moco_v3"),
    "moco_in_batch": Proof(
        scripts.MoCoInBatch,
        "negatives_scripts.moco_in_batch",
        {**SPLIT, "negatives.1.size": 15},
    ),
    "byol": Proof(scripts.BYOL, "siamese_scripts.byol"),
    "byol_negatives": Proof(
        scripts.BYOLWithNegatives,
        "negatives_scripts.of_keys",
    ),
    "simsiam": Proof(scripts.SimSiam, "siamese_scripts.simsiam"),
    "fast_siam": Proof(scripts.FastSiam, "siamese_scripts.fast_siam"),
    "swav": Proof(
        statistics.SwAV,
        "swav_scripts.swav",
        {"loss.prototypes": 5, "loss.frozen": 0.4, "loss.queue": B, "loss.queue_from": 0.0},
    ),
    "deepcluster_v2": Proof(
        statistics.DeepCluster,
        "swav_scripts.deepcluster_v2",
        {"loss.prototypes": [2, 3, 2]},
    ),
    "barlow_twins": Proof(statistics.BarlowTwins, "decorrelation_scripts.barlow_twins"),
    "vibcreg": Proof(
        statistics.VIbCReg,
        "decorrelation_scripts.vibcreg",
        {"head.dims": [HIDDEN, HIDDEN, WIDTH], "head.channels": statistics.VIbCReg.channels},
        images=16,
    ),
    "w_mse": Proof(
        statistics.WMSE,
        "decorrelation_scripts.w_mse",
        {"head.dims": [HIDDEN, 4], "loss.sub_batch": 8, "loss.iterations": 2},
        images=16,
    ),
    "tico": Proof(statistics.TiCo, "decorrelation_scripts.tico"),
    "frossl": Proof(statistics.FroSSL, "decorrelation_scripts.frossl"),
    "mmcr": Proof(statistics.MMCR, "decorrelation_scripts.mmcr", {"loss.compression": 0.3}),
    "lejepa": Proof(statistics.LeJEPA, "decorrelation_scripts.lejepa", {"loss.slices": 7}),
    "visreg": Proof(statistics.VISReg, "decorrelation_scripts.visreg", {"loss.slices": 7}),
    "directclr": Proof(statistics.DirectCLR, "decorrelation_scripts.direct_clr", {"head.dim": 5}),
    "emp_ssl": Proof(statistics.EMPSSL, "decorrelation_scripts.emp_ssl"),
    "nnclr": Proof(support.NNCLR, "neighbours_scripts.nnclr", {"target.size": 15}),
    "nnbyol": Proof(support.NNBYOL, "neighbours_scripts.nnbyol", {"target.size": 15}),
    "nnsiam": Proof(support.NNSiam, "neighbours_scripts.nnsiam", {"target.size": 15}),
    "msf": Proof(support.MSF, "neighbours_scripts.msf", {"loss.size": 15}),
    "ressl": Proof(support.ReSSL, "neighbours_scripts.ressl", {"negatives.size": 15}),
    "all4one": Proof(
        support.All4One,
        "neighbours_scripts.all4one",
        {
            "target.size": 15,
            "objectives.centroid.loss.size": 15,
            "objectives.centroid.loss.heads": 2,
            "objectives.neighbour.predictor.dims": [HIDDEN, WIDTH],
            "objectives.centroid.predictor.dims": [HIDDEN, WIDTH],
        },
    ),
    "byol_dcl": Proof(mixtures.BYOLWithDCL, "mixture_scripts.BYOLWithDCL"),
    "fast_byol": Proof(mixtures.FastBYOL, "mixture_scripts.FastBYOL"),
    "moco_hard_negative": Proof(
        mixtures.MoCoHardNegative, "mixture_scripts.MoCoHardNegative", {**SPLIT, "negatives.size": 15}
    ),
    "simclr_vicreg": Proof(mixtures.SimCLRWithVICReg, "mixture_scripts.SimCLRWithVICReg"),
    "supcon_moco": Proof(
        mixtures.SupConWithQueue, "mixture_scripts.SupConWithQueue", {**SPLIT, "negatives.size": 15}
    ),
}
