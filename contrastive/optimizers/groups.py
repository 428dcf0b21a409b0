"""Parameter groups: a recipe's rules for some parameters, and which parameters are decayed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from contrastive.errors import UsageError, did_you_mean
from contrastive.kinds import Addition
from contrastive.optimizers.rates import NonNegative, Positive, Schedule

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance norms
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


class Group(BaseModel):
    """A recipe's rule for the parameters that ``match``; what it omits is the optimizer's.

    Attributes:
        match: glob over the names of the method's parameters, such as ``predictor.*``; ``*`` spans dots. The
            ``net.`` right after ``backbone.`` may be omitted: ``backbone.patch_embed.*``.
        schedule: of the rate after the optimizer's warm-up.
        lr_scale: factor of the optimizer's peak rate.
        weight_decay: replaces the optimizer's.
        freeze: whether the parameters keep their initial values; excludes the settings above.
        freeze_epochs: epochs in which they keep them first. Then they warm up as the others did at the start.
        statistics: of batch norm in modules whose parameters are all frozen: ``fixed`` runs such modules in
            evaluation mode in every step, so that dropout and stochastic depth are off too; ``moving`` runs
            them in training mode.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    match: Annotated[str, Field(min_length=1)]
    schedule: Schedule | None = None
    lr_scale: Positive = 1.0
    weight_decay: NonNegative | None = None
    freeze: bool = False
    freeze_epochs: Annotated[NonNegative, Addition()] = 0.0
    statistics: Annotated[Literal["fixed", "moving"], Addition()] = "fixed"

    @model_validator(mode="after")
    def _frozen_is_all(self) -> Group:
        others = (self.schedule, self.lr_scale != 1, self.weight_decay is not None, self.freeze_epochs)
        if self.freeze and any(others):
            raise ValueError("freeze: true takes no schedule, lr_scale, weight_decay or freeze_epochs")
        if self.statistics == "moving" and not self.freeze:
            raise ValueError("statistics: moving is for frozen parameters; add freeze: true or drop it")
        return self

    def matches(self, name: str) -> bool:
        """Whether the rule covers the parameter of that name."""
        short = name.replace("backbone.net.", "backbone.", 1) if name.startswith("backbone.net.") else name
        return fnmatchcase(name, self.match) or fnmatchcase(short, self.match)


class RuleParameters(NamedTuple):
    """The trainable parameters of a rule, split by whether decay and layer-wise adaptation apply to them."""

    rule: Group
    weights: list[nn.Parameter]
    norms_and_biases: list[nn.Parameter]


class ParameterSplit(NamedTuple):
    """Rules applied to a model.

    Attributes:
        groups: the parameters to train, by rule.
        to_freeze: those to freeze.
        at_rest: those of them whose modules keep their statistics too.
    """

    groups: list[RuleParameters]
    to_freeze: list[nn.Parameter]
    at_rest: list[nn.Parameter]


def assign(model: nn.Module, rules: Sequence[Group] = ()) -> list[RuleParameters]:
    """The groups of :func:`split_parameters`, after freezing the parameters of rules that freeze."""
    split = split_parameters(model, rules)
    for parameter in split.to_freeze:
        parameter.requires_grad_(False)
    return split.groups


def split_parameters(model: nn.Module, rules: Sequence[Group] = ()) -> ParameterSplit:
    """The trainable parameters of ``model``, in its order, each once: under the first rule that matches.

    The first group holds what no rule matches, the others follow the rules. Parameters of rules that freeze
    are in no group. The model does not change.

    Norms and biases are: all parameters of normalisation layers, biases, every other vector or scalar (layer
    scales, a learnt temperature), and what a module inside ``model`` names in ``no_weight_decay()`` (timm's
    position embeddings and class tokens; names are relative to that module and may contain wildcards).

    Raises:
        UsageError: a rule matches no parameter, or nothing is trainable.
    """
    parameters = dict(model.named_parameters())
    everything = [*rules, Group(match="*")]
    owner = {name: next(i for i, rule in enumerate(everything) if rule.matches(name)) for name in parameters}
    to_freeze: list[nn.Parameter] = []
    at_rest: list[nn.Parameter] = []
    for i, rule in enumerate(rules):
        own = [parameters[name] for name in parameters if owner[name] == i]
        if not own:
            raise UsageError(f"optimizer.groups[{i}]: {_no_match_message(rule, list(parameters))}")
        if rule.freeze:
            to_freeze += own
            at_rest += own if rule.statistics == "fixed" else []
        elif not any(parameter.requires_grad for parameter in own):
            raise UsageError(
                f"optimizer.groups[{i}]: every parameter that matches '{rule.match}' is frozen or an average "
                "of others; remove the group."
            )
    without_decay = _names_without_decay(model)
    by_rule = [RuleParameters(rule, [], []) for rule in everything]
    for name, parameter in parameters.items():
        if parameter.requires_grad and not everything[owner[name]].freeze:
            is_vector_or_bias = parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"
            group = by_rule[owner[name]]
            if is_vector_or_bias or name in without_decay:
                group.norms_and_biases.append(parameter)
            else:
                group.weights.append(parameter)
    if not any(group.weights or group.norms_and_biases for group in by_rule):
        raise UsageError("Nothing to train: every parameter of the model is frozen.")
    *groups, rest = by_rule
    return ParameterSplit([rest, *groups], to_freeze, at_rest)


def _no_match_message(rule: Group, parameter_names: Sequence[str]) -> str:
    if any(rule.matches(name) for name in parameter_names):
        return f"an earlier group takes every parameter that matches '{rule.match}'; put this one first."
    prefixes = {name[:end] for name in parameter_names for end, c in enumerate(name) if c == "."}
    patterns = {f"{prefix}.*" for prefix in prefixes}
    hint = did_you_mean(rule.match, {*parameter_names, *patterns})
    tops = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in parameter_names))
    return f"no parameter matches '{rule.match}'.{hint} The model has {tops}."


def _names_without_decay(model: nn.Module) -> set[str]:
    """Full names of the parameters that modules themselves exclude from decay."""
    names: set[str] = set()
    for prefix, module in model.named_modules():
        own = [name for name, _ in module.named_parameters()]
        patterns = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
        inside = {name for name in own for pattern in patterns if fnmatchcase(name, pattern)}
        if isinstance(module, _NORMS):
            inside.update(own)
        names.update(f"{prefix}.{name}" if prefix else name for name in inside)
    return names
