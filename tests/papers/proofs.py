"""Every shipped method that is proven equal to a plain script of its paper: which script, and the comparison.

``scripts/equality_table.py`` prints what :data:`PROOFS` finds.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from contrastive.build import build
from contrastive.recipe import Recipe, load_recipe
from contrastive.registry import load_registry
from contrastive.views import View
from tests.papers import method_scripts as scripts
from tests.papers.side_by_side import Differences, compare

RECIPES = Path(__file__).parents[2] / "recipes"
B, STEPS = 6, 3
LABELS = [0, 1, 2, 0, 1, 0]
#: Widths of heads and predictors: all but the last layer, and the last one.
HIDDEN, WIDTH = 12, 8


@dataclass(frozen=True)
class Proof:
    """A method of whole images, and the script that it is compared with.

    Attributes:
        paper: authors and year.
        script: the step by hand, which calls the formula of the paper.
        formula: where the formula is.
        changes: of the recipe, besides narrower networks.
        images: of a batch.
    """

    paper: str
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
        labels = None
        if recipe.positives == "label":
            labels = torch.tensor(LABELS)
            script.labels = LABELS
        generator = torch.Generator().manual_seed(1)
        channels = method.backbone.net.conv1.in_channels
        batches = [
            [
                View(torch.rand(self.images, channels, *size, generator=generator, dtype=torch.float64))
                for size in composition.view_sizes
            ]
            for _ in range(STEPS)
        ]

        def loss(s, views, step):
            return script.loss(s, [view.data for view in views], step)

        def rests(key: str) -> bool:
            return key.endswith(script.rest)

        return compare(method, batches, loss, script.after_step, script.frozen, rests, labels)


@functools.cache
def registry():
    return load_registry()


def small(name: str, changes: Mapping[str, Any]) -> Recipe:
    """A shipped recipe with narrow networks."""
    recipe = load_recipe(RECIPES / f"{name}.yaml", (), registry())
    values: dict[str, Any] = {"backbone.options.width": 0.125}
    for key, part in (("head", recipe.head), ("predictor", recipe.predictor)):
        if part is not None and part.name == "mlp":
            values[f"{key}.dims"] = [HIDDEN] * (len(part.params["dims"]) - 1) + [WIDTH]
    return load_recipe(RECIPES / f"{name}.yaml", values | dict(changes), registry())


SPLIT = {"target.groups": 2}
PROOFS: dict[str, Proof] = {
    "simclr": Proof("Chen et al. 2020", scripts.SimCLR, "negatives_scripts.nt_xent"),
    "supcon": Proof("Khosla et al. 2020", scripts.SupCon, "negatives_scripts.sup_con"),
    "simclr_queue": Proof(
        "Chen et al. 2020, with MoCo's queue",
        scripts.SimCLRWithQueue,
        "negatives_scripts.with_queue",
        {"negatives.1.size": 15},
    ),
    "dcl": Proof("Yeh et al. 2022", scripts.DCL, "negatives_scripts.dcl"),
    "debiased": Proof("Chuang et al. 2020", scripts.Debiased, "negatives_scripts.debiased"),
    "hard_negative": Proof("Robinson et al. 2021", scripts.HardNegative, "negatives_scripts.hard_negative"),
    "moco_v1": Proof(
        "He et al. 2020",
        scripts.MoCo,
        "negatives_scripts.moco",
        {**SPLIT, "negatives.size": 15, "head.dim": WIDTH},
    ),
    "moco_v2": Proof(
        "Chen et al. 2020b", scripts.MoCo, "negatives_scripts.moco", {**SPLIT, "negatives.size": 15}
    ),
    "moco_v3": Proof("Chen et al. 2021", scripts.MoCoV3, "negatives_scripts.moco_v3"),
    "moco_in_batch": Proof(
        "He et al. 2020, with the batch's keys",
        scripts.MoCoInBatch,
        "negatives_scripts.moco_in_batch",
        {**SPLIT, "negatives.1.size": 15},
    ),
    "byol": Proof("Grill et al. 2020", scripts.BYOL, "siamese_scripts.byol"),
    "byol_negatives": Proof(
        "Grill et al. 2020, with a tenth of NT-Xent",
        scripts.BYOLWithNegatives,
        "negatives_scripts.of_keys",
    ),
    "simsiam": Proof("Chen and He 2021", scripts.SimSiam, "siamese_scripts.simsiam"),
}
#: Methods whose scripts are there and whose recipes are not: to be empty once all have landed.
MISSING: tuple[str, ...] = (
    "swav", "deepcluster_v2", "barlow_twins", "vibcreg", "w_mse", "tico", "frossl", "mmcr", "lejepa",
    "visreg", "directclr", "emp_ssl", "nnclr", "nnbyol", "nnsiam", "msf", "ressl", "all4one", "dclw",
    "sigmoid", "fast_siam", "simclr_v2",
)  # fmt: skip
