import fnmatch
import math
import typing

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from contrastive.errors import UsageError
from contrastive.heads import MLP
from contrastive.losses import NTXent
from contrastive.negatives import InBatch
from contrastive.optimizers import LARS, AdamWPart, Group, LARSPart, LearningRate, ScaledRate, SGDPart
from contrastive.optimizers.groups import assign
from contrastive.parts import Backbone
from contrastive.recipe import dump_yaml, load_recipe
from contrastive.registry import load_registry
from contrastive.targets import EMA
from contrastive.training import Method

# ---------------------------------------------------------------- LARS


def official_lars(w, grads, lrs, momentum, decay, eta, adapt):
    """The official SimCLR update, transcribed in numpy float64 for one parameter."""
    w = np.array(w, np.float64)
    v = np.zeros_like(w)
    for g, lr in zip(grads, lrs, strict=True):
        g = np.array(g, np.float64) + decay * w
        ratio = 1.0
        if adapt:
            w_norm, g_norm = np.sqrt((w * w).sum()), np.sqrt((g * g).sum())
            if w_norm > 0 and g_norm > 0:
                ratio = eta * w_norm / g_norm
        v = momentum * v + lr * ratio * g
        w = w - v
    return w


def run_lars(w, grads, lrs, momentum=0.9, decay=0.0, eta=0.001, adapt=True):
    p = nn.Parameter(w.clone())
    lars = LARS([p], lr=0.0, momentum=momentum, weight_decay=decay, trust_coefficient=eta, adapt=adapt)
    for g, lr in zip(grads, lrs, strict=True):
        lars.param_groups[0]["lr"] = lr
        p.grad = g.clone()
        lars.step()
    return p.detach()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(3,), (4, 5), (2, 3, 3, 3)]),
    decay=st.sampled_from([0.0, 1e-4, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
    adapt=st.booleans(),
)
def test_lars_is_the_official_update(seed, shape, decay, momentum, adapt):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    grads = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(5)]
    lrs = [0.0, 1.0, 2.0, 1.5, 0.3]
    want = official_lars(w.numpy(), [g.numpy() for g in grads], lrs, momentum, decay, 0.02, adapt)
    got = run_lars(w, grads, lrs, momentum, decay, 0.02, adapt)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-12, atol=1e-14)


def test_learning_rate_is_inside_the_velocity():
    w, g = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    after = run_lars(w, [g, g], [1.0, 0.0], adapt=False)  # lr 0 does not stop what has been gathered
    torch.testing.assert_close(after, w - 1.0 - 0.9)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_adapted_update_ignores_the_scale_of_the_gradient_and_follows_that_of_the_weight(scale, seed):
    generator = torch.Generator().manual_seed(seed)
    w, g = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    step = run_lars(w, [g], [1.0]) - w
    torch.testing.assert_close(run_lars(w, [g * scale], [1.0]) - w, step)
    torch.testing.assert_close(run_lars(w * scale, [g], [1.0]) - w * scale, step * scale)


def test_adaptation_survives_without_weight_decay():
    w, g = torch.full((4, 4), 2.0), torch.full((4, 4), 5.0)
    after = run_lars(w, [g], [1.0], decay=0.0, eta=0.001)
    torch.testing.assert_close(after, w - 0.001 * (8 / 20) * g)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_zero_norms_take_ratio_one(decay):
    zero, g = torch.zeros(3, 3), torch.ones(3, 3)
    torch.testing.assert_close(run_lars(zero, [g], [0.5], decay=decay), -0.5 * g)
    if not decay:
        assert torch.equal(run_lars(g, [zero], [0.5]), g)


def test_excluded_parameters_do_not_depend_on_their_norm():
    g = torch.randn(7, dtype=torch.float64)
    steps = [
        run_lars(w, [g], [0.5], adapt=False) - w
        for w in (torch.ones(7).double(), 1e3 * torch.ones(7).double())
    ]
    torch.testing.assert_close(steps[0], steps[1])
    torch.testing.assert_close(steps[0], -0.5 * g)


def test_low_precision_parameters_keep_a_float32_velocity_through_a_round_trip():
    p = nn.Parameter(torch.randn(4, 4).bfloat16())
    p.grad = torch.randn(4, 4).bfloat16()
    lars = LARS([p], lr=1.0)
    lars.step()
    velocity = lars.state[p]["velocity"]
    other = LARS([nn.Parameter(p.detach().clone())], lr=1.0)
    other.load_state_dict(lars.state_dict())
    (restored,) = other.state.values()
    assert velocity.dtype == restored["velocity"].dtype == torch.float32
    assert torch.equal(velocity, restored["velocity"])


def test_state_dict_continues_exactly_and_channels_last_changes_nothing():
    torch.manual_seed(0)
    w, grads = torch.randn(4, 3, 3, 3), torch.randn(6, 4, 3, 3, 3)

    def train(p, lars, grads):
        for g in grads:
            p.grad = g.clone()  # contiguous, whatever the layout of p
            lars.step()
        return p.detach()

    whole = nn.Parameter(w.clone())
    want = train(whole, LARS([whole], lr=0.5, weight_decay=1e-4), grads)
    first = nn.Parameter(w.clone().to(memory_format=torch.channels_last))
    lars = LARS([first], lr=0.5, weight_decay=1e-4)
    train(first, lars, grads[:3])
    second = nn.Parameter(first.detach().clone())
    resumed = LARS([second], lr=0.1)
    resumed.load_state_dict(lars.state_dict())
    torch.testing.assert_close(train(second, resumed, grads[3:]), want)


def test_parameters_without_gradient_are_left_and_negative_values_refused():
    p = nn.Parameter(torch.ones(2))
    LARS([p], lr=1.0).step()
    assert torch.equal(p, torch.ones(2))
    with pytest.raises(ValueError, match="momentum"):
        LARS([p], lr=1.0, momentum=-0.1)


# ---------------------------------------------------------------- rates


def test_rates_scale_as_the_paper_says():
    assert ScaledRate(per_256=0.3).at(4096) == pytest.approx(4.8)
    assert ScaledRate(per_sqrt=0.075).at(4096) == pytest.approx(4.8)


@pytest.mark.parametrize(
    "wrong", [{}, {"per_256": 1, "per_sqrt": 1}, {"per_25": 1}, {"per_256": True}, "0.1", True, 0, -1]
)
def test_a_wrong_rate_gives_one_mistake(wrong):
    adapter = pydantic.TypeAdapter(LearningRate, config={"strict": True})
    with pytest.raises(pydantic.ValidationError) as caught:
        adapter.validate_python(wrong)
    assert caught.value.error_count() == 1


def test_rates_as_recipes_write_them():
    adapter = pydantic.TypeAdapter(LearningRate, config={"strict": True})
    assert adapter.validate_python(1) == 1.0
    assert adapter.validate_python({"per_256": 0.3}) == ScaledRate(per_256=0.3)
    assert {option.get("type") or "scaled" for option in adapter.json_schema()["oneOf"]} == {
        "number",
        "scaled",
    }


@pytest.mark.parametrize("part", [LARSPart, SGDPart, AdamWPart])
def test_signatures_evaluate_and_validate_their_defaults(part):
    hints = typing.get_type_hints(part.__init__, include_extras=True)
    for name, parameter in __import__("inspect").signature(part).parameters.items():
        pydantic.TypeAdapter(hints[name], config={"strict": True}).validate_python(parameter.default)


# ---------------------------------------------------------------- schedule


def test_schedule_at_its_corners():
    part = LARSPart(lr={"per_256": 0.3}, warmup_epochs=2)
    steps, per_epoch, warm = 100, 10, 20
    rate = [part.lr_at(step, steps, per_epoch, batch_size=512) for step in range(steps)]
    peak = 0.6
    assert rate[0] == 0
    assert rate[1] == pytest.approx(peak / warm)
    assert rate[warm - 1] == pytest.approx(peak * (warm - 1) / warm)
    assert rate[warm] == pytest.approx(peak)
    assert rate[60] == pytest.approx(peak / 2)
    assert rate[-1] == pytest.approx(peak * 0.5 * (1 + math.cos(math.pi * 79 / 80)))
    assert part.factor({"schedule": "cosine"}, steps, steps, per_epoch) == 0


def test_constant_schedule_and_no_warmup():
    part = SGDPart(lr=0.1, warmup_epochs=0.5, schedule="constant")
    group = {"schedule": "constant"}
    assert [part.factor(group, step, 20, 10) for step in (0, 4, 5, 19)] == [0, 0.8, 1, 1]
    assert SGDPart(lr=0.1).factor({"schedule": "cosine"}, 0, 20, 10) == 1


def test_a_group_of_constant_rate_shares_the_warm_up_and_leaves_the_cosine_out():
    part = SGDPart(lr=0.1, warmup_epochs=1, groups=[Group(match="1.*", schedule="constant", lr_scale=10)])
    rest, own = _by_first_parameter(
        part, nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "0.weight", "1.weight"
    )
    rates = [
        [group["peak_lr"] * part.factor(group, step, 30, 10) for step in (0, 5, 10, 20, 30)]
        for group in (rest, own)
    ]
    assert rates[0] == pytest.approx([0, 0.05, 0.1, 0.05, 0])
    assert rates[1] == pytest.approx([0, 0.5, 1, 1, 1])


@given(
    steps=st.integers(1, 300),
    per_epoch=st.integers(1, 50),
    warmup=st.floats(0, 20),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_factor_stays_between_zero_and_one_and_has_one_peak(steps, per_epoch, warmup, schedule):
    part = AdamWPart(warmup_epochs=warmup, schedule=schedule)
    group = {"schedule": schedule}
    factors = [part.factor(group, step, steps, per_epoch) for step in range(steps + 1)]
    assert all(0 <= f <= 1 for f in factors)
    warm = round(warmup * per_epoch)
    assert factors[: warm + 1] == sorted(factors[: warm + 1])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)


# ---------------------------------------------------------------- groups


class Transformer(nn.Module):
    """Stands for a wrapped vision transformer: it names what must not be decayed."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
        self.register_parameter("blocks_table", nn.Parameter(torch.zeros(3, 3)))
        self.scale = nn.Parameter(torch.ones(8))
        self.norm = nn.LayerNorm((4, 8))
        self.proj = nn.Linear(8, 8)

    def no_weight_decay(self):
        return {"pos_embed", "*_table"}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"net": Transformer()})
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4))
        self.head = nn.Linear(4, 2)
        self.tied = self.head
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))  # nobody spares this one


WEIGHTS = {"backbone.net.proj.weight", "conv.0.weight", "head.weight", "pos_embed"}


def names(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in parameters]


def _by_first_parameter(part, model, *wanted):
    """The torch groups that hold the parameters of these names."""
    groups = part.build(model, 256).param_groups
    return [next(g for g in groups if name in names(model, g["params"])) for name in wanted]


def test_groups_hold_what_they_should():
    model = Model()
    ((_, weights, rest),) = assign(model)
    assert set(names(model, weights)) == WEIGHTS
    assert set(names(model, rest)) == {
        "backbone.net.pos_embed",
        "backbone.net.blocks_table",
        "backbone.net.scale",
        "backbone.net.norm.weight",
        "backbone.net.norm.bias",
        "backbone.net.proj.bias",
        "conv.0.bias",
        "conv.1.weight",
        "conv.1.bias",
        "conv.2.weight",
        "conv.2.bias",
        "head.bias",
    }


@pytest.mark.parametrize("part", [LARSPart, SGDPart, AdamWPart])
@pytest.mark.parametrize("decay_all", [False, True])
def test_every_trainable_parameter_is_in_exactly_one_group(part, decay_all):
    model = Model()
    optimizer = part(lr={"per_256": 0.3}, weight_decay=0.05, decay_norm_and_bias=decay_all).build(model, 512)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert [group["peak_lr"] for group in optimizer.param_groups] == [pytest.approx(0.6)] * 2
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05 if decay_all else 0.0]


def test_lars_part_never_adapts_norms_and_biases():
    for decay_all in (False, True):
        optimizer = LARSPart(decay_norm_and_bias=decay_all).build(Model(), 256)
        assert [group["adapt"] for group in optimizer.param_groups] == [True, False]


def test_a_timm_transformer_inside_a_wrapper_is_spared():
    import timm

    model = nn.ModuleDict({"net": timm.create_model("test_vit", num_classes=0, img_size=32)})
    ((_, weights, rest),) = assign(model)
    assert {"net.pos_embed", "net.cls_token"} <= set(names(model, rest))
    assert all(p.ndim >= 2 for p in weights)


# ---------------------------------------------------------------- groups of a recipe


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 4, 2, 2)
        self.norm = nn.BatchNorm2d(4)


class Patches(Backbone):
    """A backbone around a network of its own, as timm's stand."""

    def __init__(self):
        super().__init__()
        self.net, self.features = Net(), 4

    def forward(self, x):
        return self.net.norm(self.net.patch_embed.proj(x)).mean((2, 3))


def composed():
    head, predictor = MLP(4, [8, 6]), MLP(6, [5, 6], "hidden")
    return Method(Patches(), head, predictor, EMA(), [InBatch()], [(1.0, NTXent())])


def grouped(method, part):
    return {
        name: group
        for group in part.build(method, 256).param_groups
        for name in names(method, group["params"])
    }


@pytest.mark.parametrize("part", [LARSPart, SGDPart, AdamWPart])
def test_the_groups_of_the_contract(part):
    method = composed()
    rules = [
        {"match": "predictor.*", "schedule": "constant", "lr_scale": 10},
        {"match": "backbone.patch_embed.*", "freeze": True},
    ]
    kept = method.backbone.net.patch_embed.proj.weight.clone()
    found = grouped(method, part(lr=0.1, groups=rules))
    assert not any(name.startswith(("backbone.net.patch_embed", "target")) for name in found)
    assert {name.partition(".")[0] for name in found} == {"backbone", "head", "predictor"}
    for name, group in found.items():
        mine = name.startswith("predictor")
        assert group["peak_lr"] == group["lr"] == pytest.approx(1.0 if mine else 0.1)
        assert group["schedule"] == ("constant" if mine else "cosine")
    assert not any(p.requires_grad for p in method.backbone.net.patch_embed.parameters())
    optimizer = part(lr=0.1, groups=rules).build(method, 256)  # a second time: the freeze stands already
    method.train()
    z = method.predictor(method.head(method.backbone(torch.randn(8, 3, 4, 4))))
    z.square().sum().backward()
    optimizer.step()
    assert torch.equal(method.backbone.net.patch_embed.proj.weight, kept)


def test_the_first_rule_counts_and_weight_decay_spares_norms_where_the_optimizer_does():
    method = composed()
    rules = [Group(match="head.layers.0.*", lr_scale=2), Group(match="head.*", weight_decay=0.5, lr_scale=3)]
    found = grouped(method, AdamWPart(lr=0.1, weight_decay=0.1, groups=rules))
    assert [
        (found[name]["peak_lr"], found[name]["weight_decay"])
        for name in ("head.layers.0.weight", "head.layers.3.weight", "head.layers.1.weight")
    ] == [(0.2, 0.1), (pytest.approx(0.3), 0.5), (pytest.approx(0.3), 0.0)]
    found = grouped(method, SGDPart(lr=0.1, groups=rules))
    assert found["head.layers.1.weight"]["weight_decay"] == 0.5
    assert found["backbone.net.norm.weight"]["weight_decay"] == 1e-4


PATTERNS = [
    "*",
    "*.weight",
    "*bias",
    "head.*",
    "predictor.*",
    "backbone.*",
    "backbone.norm.*",
    "*layers.[01]*",
]


@pytest.mark.ci
@settings(max_examples=60, deadline=None)
@given(
    rules=st.lists(st.tuples(st.sampled_from(PATTERNS), st.booleans()), max_size=4),
    decay_all=st.booleans(),
)
def test_each_trainable_parameter_is_in_exactly_one_group_and_an_average_in_none(rules, decay_all):
    method = composed()
    groups = [
        Group(match=p, freeze=f) if f else Group(match=p, lr_scale=2 + i) for i, (p, f) in enumerate(rules)
    ]
    part = SGDPart(lr=0.1, decay_norm_and_bias=decay_all, groups=groups)
    try:
        optimizer = part.build(method, 256)
    except UsageError:
        assume(False)
    in_groups = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(in_groups) == len(set(in_groups))
    found = {name: group for group in optimizer.param_groups for name in names(method, group["params"])}
    for name, parameter in method.named_parameters():
        short = name.replace("backbone.net.", "backbone.")
        first = next((g for g in groups if fnmatch.fnmatchcase(short, g.match)), None)
        trained = not name.startswith("target.") and not (first and first.freeze)
        assert (name in found) == parameter.requires_grad == trained, name
        if trained:
            assert found[name]["peak_lr"] == pytest.approx(0.1 * (first.lr_scale if first else 1))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (
            [{"match": "predicto.*"}],
            r"groups\[0\]: no parameter matches 'predicto\.\*'\. Did you mean 'predictor\.\*'",
        ),
        ([{"match": "qqqqqq"}], r"The model has backbone\.\*, head\.\*, target\.\*, predictor\.\*\."),
        ([{"match": "head.layers.0.weigth"}], r"Did you mean 'head\.layers\.0\.weight'"),
        (
            [{"match": "*"}, {"match": "head.*"}],
            r"groups\[1\]: an earlier group takes every .*put this one first",
        ),
        (
            [{"match": "target.*", "lr_scale": 2}],
            r"groups\[0\]: every parameter that matches 'target\.\*' is frozen",
        ),
        ([{"match": "*", "freeze": True}], "Nothing to train"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(rules, reason):
    with pytest.raises(UsageError, match=reason):
        SGDPart(groups=rules).build(composed(), 256)
    with pytest.raises(UsageError, match=reason):
        SGDPart(groups=rules).check(composed(), 256)


@pytest.mark.parametrize("part", [LARSPart, SGDPart, AdamWPart])
@pytest.mark.parametrize(
    "rules",
    [
        [],
        [{"match": "backbone.patch_embed.*", "freeze": True}],
        [{"match": "head.*", "freeze": True}, {"match": "head.layers.0.*", "lr_scale": 2}],
        [{"match": "*", "freeze": True}],
    ],
)
def test_check_touches_nothing_and_refuses_what_build_refuses(part, rules):
    """A group whose parameters an earlier one takes, or nothing left to train, is a mistake in both."""
    method, optimizer = composed(), part(lr=0.1, groups=rules)

    def outcome(call):
        try:
            call(method, 256)
        except UsageError as error:
            return str(error)
        return None

    def state():
        return {name: (id(p), p.requires_grad, p.detach().clone()) for name, p in method.named_parameters()}

    before = state()
    refusal, after = outcome(optimizer.check), state()
    for name, (identity, trained, values) in before.items():
        assert after[name][:2] == (identity, trained), name
        assert torch.equal(after[name][2], values), name
    assert outcome(optimizer.build) == refusal


RECIPE = """\
dataset: fashion_mnist_sample
augmentation: {name: simclr, size: 28}
predictor: {name: mlp, dims: [16, 128]}
optimizer: {name: sgd, lr: 0.1}
"""


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_groups_in_a_recipe_survive_its_dump(tmp_path, name):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    said = '[{match: "head.*", lr_scale: 10}, {match: "backbone.conv1.*", freeze: true}]'
    registry = load_registry(plugins=False)
    recipe = load_recipe(path, [f"optimizer.name={name}", f"optimizer.groups={said}"], registry)
    again = tmp_path / "again.yaml"
    again.write_text(dump_yaml(recipe))
    for resolved in (recipe, load_recipe(again, [], registry)):
        groups = resolved.optimizer.build().groups
        assert groups == [Group(match="head.*", lr_scale=10), Group(match="backbone.conv1.*", freeze=True)]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('[{match: "head.*", freeze: true, lr_scale: 2}]', "freeze: true takes no schedule, lr_scale"),
        ('[{match: "head.*", freeze: true, weight_decay: 0}]', "freeze: true takes no"),
        ('[{match: "head.*", statistics: moving}]', "add freeze: true"),
        ('[{match: "head.*", freeze: true, statistics: still}]', "'fixed' or 'moving'"),
        ('[{match: "head.*", lr_scale: 0}]', "greater than 0"),
        ('[{match: "head.*", lr_sale: 2}]', "no key 'lr_sale'. Did you mean 'lr_scale'"),
        ("[{lr_scale: 2}]", "match"),
        ('[{match: "head.*", schedule: linear}]', "cosine"),
        ('[{match: "head.*", lr_scale: true}]', "number"),
    ],
)
def test_a_wrong_group_is_refused_in_the_recipe(tmp_path, said, reason):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(UsageError, match=reason) as caught:
        load_recipe(path, [f"optimizer.groups={said}"], load_registry(plugins=False))
    assert "optimizer.groups" in str(caught.value)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(UsageError, match="momentum above 0"):
        SGDPart(momentum=0.0, nesterov=True)


def test_only_biases_gives_one_group_and_nothing_an_error():
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    assert len(SGDPart().build(model, 256).param_groups) == 1
    model.bias.requires_grad_(False)
    with pytest.raises(UsageError, match="frozen"):
        SGDPart().build(model, 256)


@pytest.mark.parametrize(
    ("part", "reference"),
    [
        (
            SGDPart(lr=0.1, nesterov=True),
            lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, weight_decay=1e-4),
        ),
        (
            AdamWPart(lr=0.1, betas=[0.8, 0.95]),
            lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.95), weight_decay=0.1),
        ),
    ],
)
def test_sgd_and_adamw_are_torchs(part, reference):
    torch.manual_seed(0)
    w = torch.randn(4, 3, 5, 5)
    ours = nn.ParameterList([w.clone().to(memory_format=torch.channels_last)])
    theirs = nn.ParameterList([w.clone()])
    optimizers = part.build(ours, 256), reference(theirs)
    for g in torch.randn(3, *w.shape):
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model[0].grad = g.clone()
            optimizer.step()
    torch.testing.assert_close(ours[0], theirs[0])
