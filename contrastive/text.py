"""Numbers, lists and options formatted for people."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contrastive.kinds import Unit


def percent(fraction: float) -> str:
    """``0.7123`` -> ``71.2 %``."""
    return f"{100 * fraction:.1f} %"


@dataclass(frozen=True)
class MetricFormat:
    """How the values of one metric are shown.

    Attributes:
        unit: a fraction is shown in percent, and differences of it in percentage points.
    """

    unit: Unit = "fraction"

    @classmethod
    def of(cls, metric: str, protocols: Mapping[str, Mapping[str, Any]] | None) -> MetricFormat:
        """The format of ``<key>_<name>``: its unit is the one that the protocol of that key declares.

        Args:
            metric: such as ``knn_top1``.
            protocols: key -> what a run records of the protocol, with ``metric_units`` if it declares any.
        """
        keys = [key for key in protocols or {} if metric.startswith(f"{key}_")]
        if not protocols or not keys:
            return cls()
        key = max(keys, key=len)  # knn_z_top1 is of knn_z, not of knn
        units = protocols[key].get("metric_units", {})
        return cls(units.get(metric.removeprefix(f"{key}_"), "fraction"))

    @property
    def factor(self) -> float:
        """By which values are multiplied to be shown."""
        return 100 if self.unit == "fraction" else 1

    @property
    def title_suffix(self) -> str:
        """What follows the metric's name on an axis: ``, %`` or nothing."""
        return ", %" if self.unit == "fraction" else ""

    @property
    def digits(self) -> str:
        """The format of a value on an axis, after :attr:`factor`."""
        return ".2f" if self.unit == "fraction" else ".4g"

    def value(self, value: float) -> str:
        """``71.2 %``, or ``0.413``."""
        return percent(value) if self.unit == "fraction" else self._number(value)

    def change(self, difference: float, value: float | None = None) -> str:
        """``+3.1`` percentage points, or ``+0.031``: in the format of ``value``, if that is next to it."""
        if self.unit == "fraction":
            return f"{100 * difference:+.1f}"
        return ("" if difference < 0 else "+") + self._number(difference, value)

    def margin(self, half_width: float) -> str:
        """``3.1`` percentage points, or ``0.031``: what follows a plus-minus sign."""
        return f"{100 * half_width:.1f}" if self.unit == "fraction" else self._number(half_width)

    @property
    def change_noun(self) -> str:
        """What follows a change in a sentence: `` points``, or nothing."""
        return " points" if self.unit == "fraction" else ""

    @staticmethod
    def _number(value: float, scale: float | None = None) -> str:
        """Three decimals, or three digits if they say little of ``scale``, by default of the number."""
        size = abs(value if scale is None else scale)
        return f"{value:,.3f}" if size == 0 or 0.01 <= size < 1e6 else f"{value:.3g}"


def class_name(classes: Sequence[str] | None, label: int) -> str | None:
    """The name of a class, ``class 3`` if it has none, or None for an unknown label, which is negative."""
    if label < 0:
        return None
    return str(classes[label]) if classes is not None and label < len(classes) else f"class {label}"


def metric_words(key: str) -> str:
    """``linear_top1`` -> ``linear top1``; a key with more underscores stays as it is, as JSON has it."""
    return key.replace("_", " ") if key.count("_") == 1 else key


def duration(seconds: float) -> str:
    """``161.2`` -> ``2 min 41 s``: the two largest units."""
    total = max(0, round(seconds))
    hours, minutes, rest = total // 3600, total % 3600 // 60, total % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def quantity(count: int, noun: str, plural: str | None = None) -> str:
    """``1 file``, ``1,234 files``; ``plural`` if it is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def abbreviate(names: Sequence[str], separator: str = ", ") -> str:
    """``a, b, c, d, e, ...``: at most five of them."""
    return separator.join([*names[:5], *(["..."] if len(names) > 5 else [])])


def count_and_names(names: Sequence[str], noun: str) -> str:
    """``12 files (a, b, c, d, e, ...)``."""
    return f"{quantity(len(names), noun)} ({abbreviate(names)})"


def was(count: int) -> str:
    """The verb that agrees with a count: ``was`` or ``were``."""
    return "was" if count == 1 else "were"


def byte_count(count: int) -> str:
    """``3145728`` -> ``3.0 MiB``."""
    return f"{count / 2**20:,.1f} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def quotation(text: str) -> str:
    """A line of text as YAML reads it, whatever its characters are."""
    return "'" + text.replace("'", "''") + "'"


def set_to_text(path: str, text: str) -> str:
    """The option ``--set`` that sets a value of a recipe to a line of text, as a shell takes it."""
    return set_option(f"{path}={quotation(text)}")


def set_option(assignment: str) -> str:
    """The option ``--set`` with an assignment in one line, as a shell takes it."""
    has_special = re.search(r'["$`\\!]', assignment)  # within double quotes
    return f"--set {shlex.quote(assignment)}" if has_special else f'--set "{assignment}"'
