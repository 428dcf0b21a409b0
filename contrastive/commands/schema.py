"""``contrastive schema``: prints the JSON Schema of recipes."""

from __future__ import annotations

import argparse

from contrastive.commands.output import print_json
from contrastive.recipe import recipe_schema
from contrastive.registry import load_registry


def main(arguments: argparse.Namespace) -> int:
    """Print the schema of recipes that use any of the installed parts."""
    print_json(recipe_schema(load_registry()))
    return 0
