"""``verdict/1``: what the metrics of an encoder say, in plain sentences.

A sentence states what was measured, and a threshold decides whether it is said. docs/evaluation.md lists the
thresholds; whoever changes one, or a sentence's condition, raises the version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, NamedTuple

from contrastive.evaluation.sampling import difference_error, sampling_error
from contrastive.evaluation.views import VIEWS_PREFIX
from contrastive.text import MetricFormat, metric_words, percent, quantity

#: Name and version of the sentences and their thresholds.
VERDICT = "verdict/1"
#: The part of a run's steps after which a metric that still changes is said to change.
TREND_START = 0.75
#: The least rise after that, and the least fall from the best evaluation to the last, that are a trend.
RISE, FALL = 0.02, 0.03
#: Below this share of the recall without changes of colour, an encoder relies on colour.
COLOUR_SHARE = 0.5

Sign = Literal["collapse", "labels", "no_gain", "recognition", "no_recognition", "colour", "rise", "fall"]


class _Floor(NamedTuple):
    """What an encoder must exceed, in a list and in a sentence."""

    name: str
    noun: str


_UNTRAINED = _Floor("untrained", "the untrained encoder")
_BEFORE_TRAINING = _Floor("before training", "the encoder before training")
_PIXELS = _Floor("raw pixels", "raw pixels")


class Sentence(NamedTuple):
    """A sentence, and what it is a sign of."""

    sign: Sign
    text: str


class Point(NamedTuple):
    """A metric at an evaluation during training."""

    step: int
    epoch: int
    value: float


@dataclass(frozen=True)
class Curve:
    """A metric over the evaluations of a run.

    Attributes:
        words: what sentences call it.
        points: one per evaluation, at least one.
        losses: epoch -> mean training loss.
        images: number of images that it is scored on.
    """

    words: str
    points: Sequence[Point]
    losses: Mapping[int, float]
    images: int

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]], metric: str | None, images: int) -> Curve | None:
        """From the lines of metrics.jsonl: of a metric or, by default, of recall at 1; None without it."""
        key = metric or f"{VIEWS_PREFIX}recall_1"
        points = [
            Point(line["step"], line["epoch"], line[key]) for line in lines if line.get(key) is not None
        ]
        losses: dict[int, list[float]] = {}
        for line in lines:
            if line.get("loss") is not None:
                losses.setdefault(line["epoch"], []).append(line["loss"])
        means = {epoch: fmean(values) for epoch, values in losses.items()}
        return (
            cls("recognition" if metric is None else metric_words(metric), points, means, images)
            if points
            else None
        )


def verdict_on(
    result: Mapping[str, Any],
    *,
    images: int,
    channels: int,
    collapse: str | None = None,
    curve: Curve | None = None,
    has_random_start: bool = True,
) -> dict[str, Any]:
    """The sentences on an encoder: ``version``, ``sentences``, and what each of them is a sign of, ``signs``.

    Args:
        result: ``trained``, ``untrained`` and ``pixels``, each metric -> value; ``split``, ``protocols``, and
            ``views``, as :meth:`ViewEvaluation.final` gives them. Any of them may be absent or empty.
        images: number of images behind the metrics with labels.
        channels: of the images.
        collapse: what is wrong with the spread of embeddings or features, in words.
        curve: of the metric that training is followed by; None if there was no training.
        has_random_start: whether the encoder that ``untrained`` is of has random weights.
    """
    start = _UNTRAINED if has_random_start else _BEFORE_TRAINING
    sentences = [
        *([] if collapse is None else [Sentence("collapse", _sentence_case(collapse))]),
        *_on_labels(result, images, start),
        *_on_recognition(result, start),
        *_on_colour(result.get("views") or {}, channels),
        *([] if curve is None else _on_trend(curve)),
    ]
    return {
        "version": VERDICT,
        "sentences": [sentence.text for sentence in sentences],
        "signs": [sentence.sign for sentence in sentences],
    }


def _on_labels(result: Mapping[str, Any], images: int, start: _Floor) -> Iterator[Sentence]:
    """The main metric with labels, and each floor that it does not exceed."""
    trained = result.get("trained") or {}
    key = _main_metric(trained, result.get("protocols"))
    if key is None or not images:
        return
    value, words = trained[key], metric_words(key)
    gains, failures = [], []
    for floor, (_, name) in (("untrained", start), ("pixels", _PIXELS)):
        base = (result.get(floor) or {}).get(key)
        if base is None:
            continue
        error = difference_error(value, base, images)
        if value - base > error:
            gains.append(f"{100 * (value - base):.1f} points above {name}")
            continue
        against = f"{words} {percent(value)} against {percent(base)}"
        if base - value > error:
            failures.append(f"Worse than {name}: {against}.")
        else:
            failures.append(f"Not better than {name}: {against}, {_within(error, images)}.")
    margin = f"± {100 * sampling_error(value, images):.1f}"
    rest = f": {' and '.join(gains)}" if gains else ""
    yield Sentence("labels", f"On {result.get('split')}, {words} is {percent(value)} {margin}{rest}.")
    for failure in failures:
        yield Sentence("no_gain", failure)


def _main_metric(trained: Mapping[str, float], protocols: Mapping[str, Any] | None) -> str | None:
    """The metric that the sentence is about: the first top1, else the first fraction, else None."""
    fractions = [key for key in trained if MetricFormat.of(key, protocols).unit == "fraction"]
    top1 = [key for key in fractions if key.endswith("_top1")]
    return next((key for key in (*top1, *fractions)), None)


def _on_recognition(result: Mapping[str, Any], start: _Floor) -> Iterator[Sentence]:
    """How often a view finds its image, and each floor that this does not exceed."""
    views = result.get("views") or {}
    recall = (views.get("trained") or {}).get("recall_1")
    if recall is None:
        return
    images = views["images"]
    floors = {
        name: views[floor]["recall_1"]
        for floor, name in (("pixels", _PIXELS), ("untrained", start))
        if "recall_1" in (views.get(floor) or {})
    }
    listing = ", ".join(f"{floor.name} {percent(value)}" for floor, value in floors.items())
    rest = "" if result.get("trained") else "; this says nothing yet about classes"
    yield Sentence(
        "recognition",
        f"Recognises an image in another view of it {percent(recall)} of the time, "
        f"among {quantity(images, 'image')} that {'validates' if images == 1 else 'validate'}"
        f"{f' ({listing})' if listing else ''}{rest}.",
    )
    margins = {floor.noun: difference_error(recall, base, images) for floor, base in floors.items()}
    gains = {floor.noun: recall - base for floor, base in floors.items()}
    if losses := [noun for noun, gain in gains.items() if -gain > margins[noun]]:
        yield Sentence("no_recognition", f"That is less often than {' and '.join(losses)}.")
    if open_nouns := [noun for noun, gain in gains.items() if abs(gain) <= margins[noun]]:
        margin = _within(max(margins[noun] for noun in open_nouns), images)
        yield Sentence(
            "no_recognition",
            f"That is not shown to be more often than {' or '.join(open_nouns)}: the difference is {margin}.",
        )


def _on_colour(views: Mapping[str, Any], channels: int) -> Iterator[Sentence]:
    """Whether changes of colour, not crops, are what hides images from the encoder."""
    trained = views.get("trained") or {}
    recall, own = trained.get("recall_1"), trained.get("recall_1_own_colours")
    if recall is None or own is None:
        return
    if recall >= COLOUR_SHARE * own or own - recall <= difference_error(own, recall, views["images"]):
        return
    colour = "brightness and contrast" if channels == 1 else "colour"
    yield Sentence(
        "colour",
        f"It relies on {colour}: in the same views without changes of {colour} it recognises "
        f"{percent(own)}, with them {percent(recall)}.",
    )


def _on_trend(curve: Curve) -> Iterator[Sentence]:
    """Whether the metric was still rising at the end, or had fallen from its best."""
    last = curve.points[-1]
    best = max(curve.points, key=lambda point: point.value)
    fall = best.value - last.value
    losses = curve.losses.get(best.epoch), curve.losses.get(last.epoch)
    if fall > _least(FALL, best, last, curve.images) and _falls(*losses):
        yield Sentence(
            "fall",
            f"Past its best: {curve.words} fell from {_at(best)} to {_at(last)}, while the training loss "
            "fell too; train shorter, or augment more strongly.",
        )
    earlier = [point for point in curve.points if point.step <= TREND_START * last.step]
    if earlier and last.value - earlier[-1].value > _least(RISE, earlier[-1], last, curve.images):
        yield Sentence(
            "rise",
            f"Still improving at the end: {curve.words} rose from {_at(earlier[-1])} to {_at(last)}; train "
            "longer.",
        )


def _falls(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after < before


def _least(threshold: float, one: Point, other: Point, images: int) -> float:
    """The least change that counts: both are scored on the same images, so the error of one is enough."""
    return max(threshold, sampling_error((one.value + other.value) / 2, images))


def _at(point: Point) -> str:
    return f"{percent(point.value)} (epoch {point.epoch})"


def _within(error: float, images: int) -> str:
    return f"within the {100 * error:.1f} points that {quantity(images, 'image')} leave open"


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]
