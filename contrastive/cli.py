"""The command line. Nothing heavy is imported before a command needs it: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from contrastive.errors import ContrastiveError, Interrupted, RecipeError
from contrastive.kinds import KINDS

_RECIPE = "a recipe file, or the name of a shipped one (simclr)"
_PROTOCOL = "one of the run's protocols, or any other (finetune); may be repeated"
_SET = "override one value of the recipe, any depth, a YAML value; may be repeated"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 done, 1 failed, 2 usage, 3 plugin, 130 interrupted)."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is shown escaped
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments) or 0
    except ContrastiveError as error:
        if arguments.debug:
            raise
        plain = isinstance(error, RecipeError | Interrupted)
        print(error if plain else f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a folder that may not be read or written
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="contrastive",
        description="Train image encoders without labels; compose methods from parts.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, function: Any, summary: str, *, json_flag: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, parents=[common], help=summary, description=summary)
        added.set_defaults(command=function)
        if json_flag:
            added.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
        return added

    def overrides(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=_SET
        )

    run = command("run", _run, "train, evaluate and export what a recipe says", json_flag=True)
    run.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(run)
    run.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/<name>-seed<seed>-<fingerprint>)"
    )
    run.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="go on from the newest checkpoint (auto), move an old run aside (never), insist on one (must)",
    )
    run.add_argument(
        "--processes", type=int, metavar="N", help="train in N processes of this machine, one a GPU"
    )

    check = command("check", _check, "validate and build recipes without training", json_flag=True)
    check.add_argument("recipes", metavar="RECIPE", nargs="+", help=f"{_RECIPE}, or a grid file")
    overrides(check)

    listing = command("list", _list, "parts and shipped recipes, with one-line summaries", json_flag=True)
    listing.add_argument("kind", metavar="KIND", nargs="?", help=f"one of {', '.join(KINDS)}, recipe")

    show = command("show", _show, "a part's parameters, types, defaults and documentation", json_flag=True)
    show.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    show.add_argument("name", metavar="NAME")

    preview = command("preview", _preview, "draw a grid of views of real images")
    preview.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(preview)
    preview.add_argument("--out", metavar="FILE.png", required=True, help="the picture to write")

    profile = command(
        "profile", _profile, "where the time of training goes, and what to change", json_flag=True
    )
    profile.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(profile)
    profile.add_argument(
        "--steps", type=int, default=20, metavar="N", help="steps to measure, after a few others (20)"
    )

    evaluate = command("evaluate", _evaluate, "evaluate the encoder of a run", json_flag=True)
    evaluate.add_argument("run", metavar="RUN", help="a run folder")
    evaluate.add_argument("--protocol", action="append", default=[], metavar="NAME", help=_PROTOCOL)
    overrides(evaluate)

    embed = command("embed", _embed, "write features of every image to a parquet file", json_flag=True)
    embed.add_argument("run", metavar="RUN", help="a run folder")
    embed.add_argument("--out", metavar="FILE.parquet", required=True, help="the table to write")
    embed.add_argument("--output", choices=("h", "z"), default="h", help="backbone features or embedding")
    embed.add_argument(
        "--neighbours", type=int, default=0, metavar="K", help="add each image's K nearest others (cosine)"
    )
    overrides(embed)

    export = command("export", _export, "write the backbone of a run for other programs")
    export.add_argument("run", metavar="RUN", help="a run folder")
    export.add_argument("--format", choices=("timm", "onnx"), default="timm", help="what will load it")
    export.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")

    compare = command(
        "compare",
        _compare,
        "run recipes over seeds and tell what differs, in a table and a report",
        json_flag=True,
    )
    compare.add_argument(
        "targets",
        metavar="RECIPE_OR_RUN",
        nargs="+",
        help="a recipe file or name, a grid file, or a finished run's folder; the first is the measure",
    )
    compare.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="seeds of each recipe, its own and those after it (3)",
    )
    overrides(compare)
    compare.add_argument(
        "--out", metavar="DIR", help="where report.html goes (default: comparisons/<names>-<8 hex>)"
    )

    command("schema", _schema, "print the JSON Schema of recipes, for editors")

    plugin = command("plugin", None, "installed plugins")
    plugin_commands = plugin.add_subparsers(metavar="COMMAND", required=True)
    plugin_list = plugin_commands.add_parser("list", parents=[common], help="installed plugins with versions")
    plugin_list.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    plugin_list.set_defaults(command=_plugin_list)
    plugin_check = plugin_commands.add_parser(
        "check", parents=[common], help="ask a plugin's parts what every part promises"
    )
    plugin_check.add_argument(
        "plugin", metavar="NAME_OR_PATH", help="an installed plugin, or the folder of a package"
    )
    plugin_check.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    plugin_check.set_defaults(command=_plugin_check)
    plugin_new = plugin_commands.add_parser("new", parents=[common], help="write a package to start from")
    plugin_new.add_argument("name", metavar="NAME", help="what the package will be called: my-loss")
    plugin_new.add_argument("--kind", required=True, help=f"of its part: one of {', '.join(KINDS)}")
    plugin_new.add_argument("--out", metavar="DIR", help="a new or empty folder (default: NAME)")
    plugin_new.set_defaults(command=_plugin_new)
    return parser


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __call__(self, *_: Any) -> None:
        from contrastive.versions import core_version

        print(f"contrastive {core_version()}")
        raise SystemExit(0)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def _run(arguments: argparse.Namespace) -> int:
    if arguments.processes is not None:
        from contrastive.recipe import load_recipe
        from contrastive.registry import load_registry
        from contrastive.runs.launch import launch

        resolved = load_recipe(arguments.recipe, arguments.overrides, load_registry())
        if arguments.processes > 0 and (told := resolved.unshared(arguments.processes)):
            raise RecipeError([told])  # before every process has imported all it needs
        argv = [f"--set={override}" for override in arguments.overrides]
        argv += [f"--out={arguments.out}"] if arguments.out is not None else []
        argv += ["--json"] * arguments.json + ["--debug"] * arguments.debug
        return launch(["run", arguments.recipe, *argv, f"--resume={arguments.resume}"], arguments.processes)

    from contrastive.distributed import is_first
    from contrastive.runs.display import Display, summary_table
    from contrastive.runs.job import run
    from contrastive.runs.launch import LAUNCHED, end_with_launcher

    if LAUNCHED in os.environ:
        end_with_launcher()

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        display = Display()
        done = run(
            arguments.recipe, arguments.overrides, out=arguments.out, resume=arguments.resume, display=display
        )
        if not is_first():
            return 0
        display.console.print(summary_table(done.summary))
    if arguments.json:
        _print_json({"run": str(done.folder), **done.summary})
    else:
        print(done.folder)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from contrastive.commands.check import check_file, render

    reports, codes = [], [0]
    for recipe in arguments.recipes:
        try:
            reports += check_file(recipe, arguments.overrides)
        except ContrastiveError as error:
            if arguments.debug:
                raise
            print(error, file=sys.stderr)
            codes.append(error.exit_code)
    if arguments.json:
        _print_json({"recipes": reports, "ok": max(codes) == 0})
    else:
        for report in reports:
            render(report)
    return max(codes)


def _list(arguments: argparse.Namespace) -> int:
    from contrastive.commands.catalogue import list_parts, render_list
    from contrastive.registry import load_registry

    listing = list_parts(load_registry(), arguments.kind)
    _print_json(listing) if arguments.json else render_list(listing)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from contrastive.commands.catalogue import render_part, show_part
    from contrastive.registry import load_registry

    part = show_part(load_registry(), arguments.kind, arguments.name)
    _print_json(part) if arguments.json else render_part(part)
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    from contrastive.commands.preview import preview

    print(preview(arguments.recipe, arguments.overrides, arguments.out))
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    from contrastive.commands.profiler import profile, render

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        report = profile(arguments.recipe, arguments.overrides, arguments.steps)
    _print_json(report) if arguments.json else render(report)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from contrastive.commands.evaluate import evaluate
    from contrastive.runs.display import Display, summary_table

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        figures = evaluate(arguments.run, arguments.protocol, arguments.overrides)
        Display().console.print(summary_table(figures))
    if arguments.json:
        _print_json(figures)
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    from contrastive.commands.embed import embed

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        written = embed(
            arguments.run,
            arguments.out,
            output=arguments.output,
            neighbours=arguments.neighbours,
            overrides=arguments.overrides,
        )
    if arguments.json:
        _print_json(written)
    else:
        print(f"{written['out']}: {written['rows']} images, {arguments.output} of width {written['width']}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from contrastive.commands.export import export

    print(export(arguments.run, arguments.out, arguments.format))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from contrastive.commands.compare.outcome import compare
    from contrastive.runs.display import Display

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        display = Display()
        done = compare(
            arguments.targets, arguments.overrides, seeds=arguments.seeds, out=arguments.out, log=display.log
        )
        display.console.print(*done.tables, sep="\n")
        for note in done.comparison["notes"]:
            display.warn(note)
    if arguments.json:
        _print_json(done.comparison)
    else:
        print(done.folder / "report.html")
    return 1 if done.failed else 0


def _schema(arguments: argparse.Namespace) -> int:
    from contrastive.recipe.schema import recipe_schema
    from contrastive.registry import load_registry

    _print_json(recipe_schema(load_registry()))
    return 0


def _plugin_list(arguments: argparse.Namespace) -> int:
    from contrastive.commands.catalogue import list_plugins, render_plugins
    from contrastive.registry import load_registry

    plugins = list_plugins(load_registry())
    _print_json(plugins) if arguments.json else render_plugins(plugins)
    return 0


def _plugin_new(arguments: argparse.Namespace) -> int:
    from contrastive.commands.plugin_new.scaffold import create
    from contrastive.registry import load_registry

    print(create(arguments.name, arguments.kind, load_registry(), arguments.out))
    return 0


def _plugin_check(arguments: argparse.Namespace) -> int:
    from contrastive.testing.report import check

    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        report = check(arguments.plugin, show=not arguments.json)
    if arguments.json:
        _print_json(report)
    return 3 if report["failed"] else 0
