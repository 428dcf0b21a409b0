"""Where an exported encoder comes from, in Markdown for its model card: data, recipe, metrics.

No text holds a path of this machine: a path is shown by its last component.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml import YAMLError

from contrastive.backbones import is_architecture, is_hub_name, pretrained_weights
from contrastive.commands.run_values import VIEW_TITLES, view_text
from contrastive.errors import UsageError
from contrastive.recipe import load_tree, method_entries, method_of, write_yaml
from contrastive.runs import Run, StockEncoder, environment_of, floors_of, metrics_obstacle, trained_metrics
from contrastive.text import MetricFormat, metric_words, quantity
from contrastive.versions import CORE

#: An absolute path, or one that starts at a home folder.
_ABSOLUTE = re.compile(r"(?:[/\\~]|[A-Za-z]:[/\\])")
#: What a summary records of a protocol that is no setting of it.
_NOT_SETTINGS = ("id", "version", "split", "per_class", "metric_units")


@dataclass(frozen=True)
class Origin:
    """What a model card says of an encoder besides what its files declare.

    Attributes:
        title: its name.
        training, metrics: sections in Markdown.
        tags: words by which the hub finds it.
        datasets: those of the hub that it was trained on.
        base_model: repository of the hub with the weights that it has, or that its training began with.
        is_trained: whether it was trained here.
    """

    title: str
    training: str
    metrics: str
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    base_model: str | None = None
    is_trained: bool = False


def origin_of_run(run: Run) -> Origin:
    """That of a run. Raises UsageError if a file of its folder is damaged."""
    tree: dict[str, Any] = load_tree(run.folder / "recipe.yaml").root.plain()
    environment, summary = environment_of(run.folder), run.summary
    paths = environment.get("paths")
    public_tree = without_paths(tree, paths if isinstance(paths, dict) else {})
    reads_labels = "label" in _values_of(tree, "positives")
    method = method_of(str(tree["name"]))
    facts = [
        _data_fact(public_tree["dataset"], summary),
        "Labels: training used them." if reads_labels else "Labels: the losses did not use them.",
        _start_fact(public_tree["backbone"]),
        *_length_fact(summary, tree),
        _recipe_fact(str(tree["name"]), method),
        f"Trained by: {CORE} {(environment.get('versions') or {}).get(CORE, 'of an unknown version')}.",
    ]
    listing = "\n".join(f"- {fact}" for fact in facts)
    return Origin(
        title=str(tree["name"]),
        training=f"{listing}\n\nThe whole recipe:\n\n```yaml\n{write_yaml(public_tree).strip()}\n```",
        metrics=metrics_text(summary),
        tags=[*([] if reads_labels else ["self-supervised-learning"]), *([method] if method else [])],
        datasets=_hub_datasets(tree["dataset"], paths or {}),
        base_model=_base_model(tree["backbone"]),
        is_trained=True,
    )


def origin_of_stock(stock: StockEncoder) -> Origin:
    """That of an encoder from elsewhere: its weights are exported as they are."""
    path = Path(os.path.abspath(stock.text))
    if path.is_dir():
        if path.name == "backbone" and (path.parent / "recipe.yaml").is_file():
            return origin_of_run(Run(path.parent))
        if (origin := _of_card(path / "README.md")) is not None:
            return origin
    is_path = os.path.lexists(path)
    title, base_model = path.name if is_path else stock.text, _base_model(stock.backbone)
    if base_model is None:
        kind = "folder" if path.is_dir() else "file"
        training = (
            f"These are the weights in the {kind} `{title}`, of timm's architecture "
            f"`{stock.backbone['model']}`, unchanged. What they were trained on is not known here."
        )
    else:
        training = (
            f"These are the weights `{title}` (https://huggingface.co/{base_model}), unchanged. What they "
            "were trained on stands there."
        )
    return Origin(
        title=title,
        training=f"{training}\n\nNothing was trained for this export.",
        metrics="This export measured none. `contrastive evaluate` measures the encoder on a data set.",
        base_model=base_model,
    )


def _of_card(file: Path) -> Origin | None:
    """What the model card of an earlier export says; None if a file is not such a card."""
    from huggingface_hub import ModelCard

    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if not text.startswith("---"):  # it has no metadata
        return None
    try:
        card = ModelCard(text)
    except (ValueError, YAMLError):  # its metadata are damaged
        return None
    head, *rest = re.split(r"^## ", card.text, flags=re.MULTILINE)
    sections = {name: text.strip() for name, _, text in (part.partition("\n") for part in rest)}
    data: Any = card.data  # ModelCardData, whose keys are attributes
    if not {"Training", "Metrics"} <= sections.keys() or CORE not in (data.tags or ()):
        return None
    return Origin(
        title=head.strip().partition("\n")[0].removeprefix("# "),
        training=sections["Training"],
        metrics=sections["Metrics"],
        tags=[tag for tag in data.tags or () if tag not in (CORE, "timm", "onnx")],
        datasets=data.datasets or (),
        base_model=data.base_model,
        is_trained=data.get("base_model_relation") is not None,
    )


def without_paths(value: Any, paths: Collection[str] = (), key: str = "") -> Any:
    """Plain values in which each path is its last component.

    Args:
        value: maps, lists and scalars.
        paths: dotted keys of texts that are paths; absolute ones are found without.
        key: of ``value`` itself.
    """
    if isinstance(value, Mapping):
        return {name: without_paths(item, paths, f"{key}.{name}".strip(".")) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item, paths, f"{key}.{index}") for index, item in enumerate(value)]
    if isinstance(value, Path) or (isinstance(value, str) and (key in paths or _ABSOLUTE.match(value))):
        return re.split(r"[/\\]", str(value).rstrip("/\\"))[-1]
    return value


def _values_of(value: Any, key: str) -> list[Any]:
    """The values of a key wherever it stands in maps."""
    if not isinstance(value, Mapping):
        return []
    own = [value[key]] if key in value else []
    return [*own, *(other for item in value.values() for other in _values_of(item, key))]


def _data_fact(dataset: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    names = [value for key, value in dataset.items() if key in ("root", "path", "dataset") and value]
    listing = f" ({', '.join(f'`{name}`' for name in names)})" if names else ""
    count = (summary.get("images") or {}).get("train")
    images = ", number of images not recorded" if count is None else f", {quantity(count, 'image')} of train"
    unreadable = len(summary.get("unreadable") or ())
    rest = f", {quantity(unreadable, 'image')} of the data set could not be read" if unreadable else ""
    return f"Data set: `{dataset['name']}`{listing}{images}{rest}."


def _start_fact(backbone: Mapping[str, Any]) -> str:
    pretrained, weights = backbone.get("pretrained"), backbone.get("weights")
    model = backbone.get("model", backbone["name"])
    if pretrained:
        tag = f".{pretrained}" if isinstance(pretrained, str) else ""
        return f"Start: the pretrained weights `{model}{tag}`."
    if weights:
        name = weights["path"] if isinstance(weights, Mapping) else weights
        return f"Start: `{model}` with the weights in `{name}`."
    return f"Start: `{model}` with random weights."


def _length_fact(summary: Mapping[str, Any], tree: Mapping[str, Any]) -> list[str]:
    if "steps" not in summary:
        return ["Length: not known, because the run had no final evaluation when it was exported."]
    epochs, steps = quantity(summary["epochs"], "epoch"), quantity(summary["steps"], "step")
    batch = quantity(tree["train"]["batch_size"], "image")
    return [f"Length: {epochs}, {steps} of {batch}, seed {summary['seed']}."]


def _recipe_fact(name: str, method: str | None) -> str:
    """The name of the recipe, and the method of that name with its reference."""
    if method is None:
        return f"Recipe: `{name}`."
    entry = method_entries()[method]
    if entry.paper is None:
        return f"Recipe: `{name}`, named as the method {entry.title} of {CORE}."
    address = entry.paper.address
    title = entry.paper.title if address is None else f"[{entry.paper.title}]({address})"
    return f"Recipe: `{name}`, named as the method {entry.title} ({entry.paper.citation}, {title})."


def _hub_datasets(dataset: Mapping[str, Any], paths: Collection[str]) -> list[str]:
    """The data set of the hub that a recipe names, unless it is a local folder."""
    path = dataset.get("path")
    if dataset["name"] != "hugging_face" or not isinstance(path, str) or "dataset.path" in paths:
        return []
    return [path] if re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", path) and not os.path.lexists(path) else []


def _base_model(backbone: Mapping[str, Any]) -> str | None:
    """The repository of the hub that holds pretrained weights; None if the backbone names none."""
    pretrained, model = backbone.get("pretrained"), backbone.get("model")
    if not pretrained or not isinstance(model, str):
        return None
    if is_hub_name(model):
        return model.partition(":")[2].partition("@")[0]
    if not is_architecture(model):  # of another version of timm
        return None
    try:
        return pretrained_weights(model, pretrained).record.get("hf_hub_id")
    except UsageError:
        return None


def metrics_text(summary: Mapping[str, Any]) -> str:
    """The metrics of a run with their floors, those without labels, and the verdict; nothing empty.

    Args:
        summary: the content of summary.json, empty if the run has not ended.
    """
    if not summary:
        return "None: the run had no final evaluation when it was exported."
    trained = trained_metrics(summary)
    parts = [
        _labelled_part(summary, trained) if trained else f"With labels: none ({metrics_obstacle(summary)})."
    ]
    if trained and (omissions := summary.get("omitted")):
        parts.append(
            "\n".join(f"`{name}`: not measured, because {reason}." for name, reason in omissions.items())
        )
    views = summary.get("views") or {}
    if views.get("trained"):
        parts.append(_views_part(summary, views))
    verdict = summary.get("verdict") or {}
    if sentences := verdict.get("sentences"):
        lines = "\n".join(f"- {sentence}" for sentence in sentences)
        parts.append(f"In words (`{verdict['version']}`):\n\n{lines}")
    return "\n\n".join(parts)


def _labelled_part(summary: Mapping[str, Any], trained: Mapping[str, float]) -> str:
    protocols = summary.get("protocols") or {}
    floors = floors_of(summary)
    rows = []
    for key, value in trained.items():
        form = MetricFormat.of(key, protocols)
        others = [floor.get(key) for floor in floors.values()]
        rows.append(
            [metric_words(key), form.value(value), *("-" if v is None else form.value(v) for v in others)]
        )
    count = (summary.get("images") or {}).get("scored")
    where = f"{quantity(count, 'image')} of {summary.get('split')}" if count else str(summary.get("split"))
    settings = [_settings(name, protocol) for name, protocol in protocols.items()]
    return "\n\n".join([f"With labels, on {where}:", _table(["metric", "trained", *floors], rows), *settings])


def _settings(name: str, protocol: Mapping[str, Any]) -> str:
    values = [f"{key} {value}" for key, value in protocol.items() if key not in _NOT_SETTINGS]
    return f"`{name}`: protocol `{protocol.get('id', name)}`{', ' if values else ''}{', '.join(values)}."


def _views_part(summary: Mapping[str, Any], views: Mapping[str, Any]) -> str:
    columns = {"trained": views["trained"], **floors_of(summary, views)}
    keys = [key for key in VIEW_TITLES if views["trained"].get(key) is not None]
    rows = [[VIEW_TITLES[key], *(view_text(key, own.get(key)) for own in columns.values())] for key in keys]
    intro = f"Without labels (`{views['id']}`), on other views of {quantity(views['images'], 'image')}:"
    return f"{intro}\n\n{_table(['metric', *columns], rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
