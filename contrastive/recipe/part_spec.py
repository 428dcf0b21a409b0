"""A part as a recipe names it: its class and its parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from contrastive.errors import UsageError
from contrastive.recipe.additions import part_values
from contrastive.recipe.signature import python_values, signature_of, validate
from contrastive.registry import Entry


@dataclass(frozen=True)
class PartSpec:
    """A part as a recipe names it: plain parameters with all defaults, nested parts as PartSpecs."""

    kind: str
    name: str
    params: Mapping[str, Any]
    entry: Entry = field(repr=False)

    def build(self, **offers: Any) -> Any:
        """Construct the part; parameters marked Injected are taken from ``offers`` by their ``what``.

        Raises UsageError if the place of the part does not offer a value that it requires: a decoder learns
        its width as a predictor, not as a head.
        """
        signature = signature_of(self.entry)
        for what in sorted(signature.required_offers - offers.keys()):
            other = "; use it as a predictor" if what == "out_features" else ""
            raise UsageError(f"{self.name} needs {what}, which this key does not offer{other}.")
        plain = {
            name: value for name, value in self.params.items() if not signature.parameters[name].takes_part
        }
        values = python_values(validate(signature.model, plain))
        parts = {
            name: _build_value(value, offers) for name, value in self.params.items() if name not in plain
        }
        injected = {name: offers[what] for name, what in signature.injected.items() if what in offers}
        return self.entry.load()(**values, **parts, **injected)

    def dump(self, additions: bool = True) -> dict[str, Any]:
        """The part as a recipe would name it, with every parameter.

        Args:
            additions: whether parameters marked :class:`contrastive.kinds.Addition` that have their default
                are included.
        """
        params = self.params if additions else part_values(self.params, signature_of(self.entry))
        return {"name": self.name, **{key: _dump_value(value, additions) for key, value in params.items()}}

    @property
    def needs(self) -> frozenset[str]:
        """What the part declares that it needs, see :data:`contrastive.parts.NEEDS`."""
        return self.entry.load().needs  # type: ignore[attr-defined]

    @property
    def is_identity(self) -> bool:
        """Whether the part is a head that declares that it returns its input."""
        return getattr(self.entry.load(), "is_identity", False)

    @property
    def pools(self) -> bool:
        """Whether the part is a head that reads the tokens of images."""
        return getattr(self.entry.load(), "pools", False)

    def walk(self) -> Iterator[PartSpec]:
        """This part and all parts nested in it."""
        yield self
        for value in self.params.values():
            yield from _walk_value(value)


def _build_value(value: Any, offers: Mapping[str, Any]) -> Any:
    if isinstance(value, PartSpec):
        return value.build(**offers)
    return [_build_value(item, offers) for item in value] if isinstance(value, list) else value


def _dump_value(value: Any, additions: bool) -> Any:
    if isinstance(value, PartSpec):
        return value.dump(additions)
    return [_dump_value(item, additions) for item in value] if isinstance(value, list) else value


def _walk_value(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield from value.walk()
    elif isinstance(value, list):
        for item in value:
            yield from _walk_value(item)
