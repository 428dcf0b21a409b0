"""``contrastive run``: trains, evaluates and exports what a recipe specifies."""

from __future__ import annotations

import argparse
import os

from contrastive.build import DataSets
from contrastive.commands.output import print_json, progress_on_stderr
from contrastive.commands.report.command import report_at_end
from contrastive.distributed import is_first
from contrastive.errors import RecipeError
from contrastive.recipe import load_recipe
from contrastive.registry import load_registry
from contrastive.runs import LAUNCHER_VARIABLE, Display, end_with_launcher, run, summary_table
from contrastive.runs.launch import launch


def main(arguments: argparse.Namespace) -> int:
    """Run the recipe in this process, or launch several that do."""
    if arguments.processes is not None:
        return _launch(arguments)
    if LAUNCHER_VARIABLE in os.environ:
        end_with_launcher()
    with progress_on_stderr(arguments):
        display = Display()
        data_sets: DataSets = []
        finished_run = run(
            arguments.recipe,
            arguments.overrides,
            out=arguments.out,
            resume=arguments.resume,
            display=display,
            open_data_sets=data_sets,
        )
        if not is_first():
            return 0
        display.console.print(summary_table(finished_run.summary))
        report_at_end(finished_run, display, data_sets)
    if arguments.json:
        print_json({"run": str(finished_run.folder), **finished_run.summary})
    else:
        print(finished_run.folder)
    return 0


def _launch(arguments: argparse.Namespace) -> int:
    """Start the same command in ``--processes`` processes, once the recipe has been validated."""
    recipe = load_recipe(arguments.recipe, arguments.overrides, load_registry())
    if arguments.processes > 0 and (mistake := recipe.uneven_batch(arguments.processes)):
        raise RecipeError([mistake])  # now rather than after every process has imported everything
    argv = [f"--set={override}" for override in arguments.overrides]
    argv += [f"--out={arguments.out}"] if arguments.out is not None else []
    argv += ["--json"] * arguments.json + ["--debug"] * arguments.debug
    return launch(["run", arguments.recipe, *argv, f"--resume={arguments.resume}"], arguments.processes)
