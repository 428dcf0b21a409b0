"""The command line. It imports what a command needs only when the command runs, so ``--help`` is fast."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pkgutil import resolve_name
from typing import Any

from contrastive import interrupts
from contrastive.errors import ContrastiveError, Interrupted, RecipeError, UsageError, did_you_mean
from contrastive.freed_memory import keep_freed_memory
from contrastive.kinds import ENCODER_FORMS, KINDS
from contrastive.wait_policy import set_wait_policy

_RECIPE = "a recipe file, or the name of a shipped one (simclr)"
_PROTOCOL = "a protocol of the run, or any other (finetune); may be repeated"
_SOURCE = "an encoder, as for embed, or a parquet file with columns id and features, such as embed writes"
_IMAGES = "image files, or folders with images"
_SET = "override a key of the recipe (train.epochs=2) with a YAML value; may be repeated"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 success, 1 failure, 2 usage, 3 plugin, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):  # escape characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    arguments = _parser().parse_args(argv)
    if arguments.command is None:
        arguments.parser.print_help(sys.stderr)
        return UsageError.exit_code
    set_wait_policy()
    keep_freed_memory()
    with interrupts.guard(owns_process=argv is None):
        try:
            return resolve_name(f"contrastive.commands.{arguments.command}")(arguments)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | Interrupted) or interrupts.is_broken_off():
                message = str(error) if isinstance(error, Interrupted) else "interrupted"
                if interrupts.is_first_process() and not interrupts.has_printed(message):
                    print(message, file=sys.stderr)
                interrupts.end_soon()
                return Interrupted.exit_code
            return _explain(error, arguments.debug)


def _explain(error: BaseException, debug: bool) -> int:
    """Print an error in one sentence and return its exit code; raise what is not for users."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has exited (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if debug or not isinstance(error, ContrastiveError | OSError):  # a full disk, missing permissions
        raise error
    print(error if isinstance(error, RecipeError) else f"error: {error}", file=sys.stderr)
    return error.exit_code if isinstance(error, ContrastiveError) else 1


def _minutes(text: str) -> float:
    """A number of minutes above 0."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return minutes


def _assignment(text: str) -> str:
    """``KEY=VALUE``."""
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no value; write {text}=VALUE, without a space")
    return text


class _CommandParser(argparse.ArgumentParser):
    """Names the nearest command or choice of a misspelt one, in place of all."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = did_you_mean(str(value), map(str, action.choices))
            if hint:
                raise argparse.ArgumentError(action, f"there is no {value!r}.{hint}")
        super()._check_value(action, value)


def _parser() -> argparse.ArgumentParser:
    """The parser.

    Each command sets ``command`` to the ``module:function`` of :mod:`contrastive.commands` that runs it. It
    is imported only then.
    """
    parser = _CommandParser(
        prog="contrastive",
        description="Train image encoders without labels, with methods composed from parts.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    common = _CommandParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(command=None, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")

    kinds = f"one of {', '.join(KINDS)}"

    def command(
        name: str, function: str | None, summary: str, *, json_flag: bool = False
    ) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, parents=[common], help=summary, description=summary)
        subparser.set_defaults(command=function, parser=subparser)
        if json_flag:
            subparser.add_argument(
                "--json", action="store_true", help="print one JSON object and nothing else"
            )
        return subparser

    def overrides(subparser: argparse.ArgumentParser) -> None:
        subparser.add_argument(
            "--set",
            action="append",
            default=[],
            type=_assignment,
            metavar="KEY=VALUE",
            dest="overrides",
            help=_SET,
        )

    minutes: dict[str, Any] = {
        "action": "append",
        "metavar": "N",
        "dest": "overrides",
        "type": "train.minutes={}".format,
    }

    run = command("run", "run:main", "train, evaluate and export the encoder of a recipe", json_flag=True)
    run.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(run)
    run.add_argument(
        "--minutes", **minutes, help="train for as many epochs as fit in N minutes, evaluations included"
    )
    run.add_argument(
        "--out", metavar="DIR", help="the run folder (default: runs/<name>-seed<seed>-<fingerprint>)"
    )
    run.add_argument(
        "--resume",
        choices=("auto", "never", "must"),
        default="auto",
        help="continue from the newest checkpoint, if any (auto); require one (must); move an existing run "
        "aside and start again (never)",
    )
    run.add_argument(
        "--processes", type=int, metavar="N", help="train in N processes on this machine, one per GPU"
    )

    check = command("check", "check:main", "validate and build recipes without training", json_flag=True)
    check.add_argument("recipes", metavar="RECIPE", nargs="+", help=f"{_RECIPE}, or a grid file")
    overrides(check)

    listing = command(
        "list",
        "catalogue:print_list",
        "list parts, shipped recipes, methods or encoders with one line each",
        json_flag=True,
    )
    listing.add_argument("kind", metavar="KIND", nargs="?", help=f"{kinds}, recipe, method, encoder")
    listing.add_argument("pattern", metavar="PATTERN", nargs="?", help="of encoders: 'vit_small*'")

    show = command(
        "show",
        "catalogue:print_shown",
        "show the documentation and parameters of a part, a method with its formula, or a recipe in full",
        json_flag=True,
    )
    show.usage = "contrastive show [-h] [--debug] [--json] (KIND NAME | method NAME | RECIPE)"
    show.add_argument("subject", metavar="KIND or RECIPE", help=f"{kinds}; method; or {_RECIPE}")
    show.add_argument("name", metavar="NAME", nargs="?", help="of a part of that kind, or of a method")

    advise = command(
        "advise",
        "advise:main",
        "name three methods for a data set, a device and a time, with reasons, and write their recipes",
        json_flag=True,
    )
    advise.add_argument(
        "dataset",
        metavar="DATASET",
        help="a folder of images, a parquet file, the name of a data set, or as in a recipe '{name: ...}'",
    )
    advise.add_argument("--minutes", type=_minutes, required=True, metavar="N", help="that a run may take")
    advise.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), help="that trains (default: the best of this machine)"
    )
    advise.add_argument(
        "--out", metavar="DIR", default="advice", help="folder of the recipes, new or empty (default: advice)"
    )

    preview = command("preview", "preview:main", "draw a grid of views of images from the data set")
    preview.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(preview)
    preview.add_argument("--out", metavar="FILE.png", required=True, help="the picture to write")

    profile = command(
        "profile",
        "profiler:main",
        "measure the time of each stage of training, and suggest changes",
        json_flag=True,
    )
    profile.add_argument("recipe", metavar="RECIPE", help=_RECIPE)
    overrides(profile)
    profile.add_argument(
        "--steps",
        type=int,
        default=20,
        metavar="N",
        help="steps to measure, after a few warm-up steps (default: 20)",
    )

    evaluate = command("evaluate", "evaluate:main", "compute the metrics of an encoder", json_flag=True)
    evaluate.add_argument("encoder", metavar="ENCODER", help=ENCODER_FORMS)
    evaluate.add_argument("--protocol", action="append", default=[], metavar="NAME", help=_PROTOCOL)
    overrides(evaluate)

    embed = command(
        "embed", "embed:main", "write the features of every image to a parquet file", json_flag=True
    )
    embed.add_argument("encoder", metavar="ENCODER", help=ENCODER_FORMS)
    embed.add_argument("--out", metavar="FILE.parquet", required=True, help="the table to write")
    embed.add_argument(
        "--output",
        choices=("h", "z", "tokens", "map"),
        default="h",
        help="features h of the backbone (default), embedding z of the head, or the patches, as rows or in "
        "their grid",
    )
    embed.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="K",
        help="add the K nearest neighbours of each image among all splits (cosine)",
    )
    overrides(embed)

    def files_to_write(subparser: argparse.ArgumentParser) -> None:
        subparser.add_argument("--out", metavar="FILE.parquet", help="a table to write")
        subparser.add_argument("--html", metavar="FILE.html", help="a page of pictures to write")

    duplicates = command(
        "duplicates",
        "duplicates:main",
        "find equal, nearly equal, mirrored and cropped images, leaks between splits first",
        json_flag=True,
    )
    duplicates.add_argument("source", metavar="ENCODER_OR_FEATURES", help=_SOURCE)
    overrides(duplicates)
    files_to_write(duplicates)

    labels = command(
        "labels", "labels:main", "rank labels by how much the other images disagree with them", json_flag=True
    )
    labels.add_argument("source", metavar="ENCODER_OR_FEATURES", help=_SOURCE)
    overrides(labels)
    files_to_write(labels)

    select = command(
        "select", "selection:main", "choose a diverse subset of images, for example to label", json_flag=True
    )
    select.add_argument("source", metavar="ENCODER_OR_FEATURES", help=_SOURCE)
    select.add_argument("--n", type=int, required=True, metavar="N", help="images to choose")
    select.add_argument(
        "--include", metavar="FILE", help="names or ids of images that are chosen already, one per line"
    )
    select.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the first image, if none is included (default: 0)",
    )
    overrides(select)
    files_to_write(select)

    search = command("search", "search:main", "find the images nearest to given image files", json_flag=True)
    search.add_argument("source", metavar="ENCODER_OR_FEATURES", help=_SOURCE)
    search.add_argument("images", metavar="IMAGE", nargs="+", help=_IMAGES)
    search.add_argument(
        "--neighbours", type=int, default=10, metavar="K", help="images to find for each (default: 10)"
    )
    search.add_argument(
        "--encoder", metavar="ENCODER", help="the encoder of a file of features, to encode the images with"
    )
    overrides(search)
    files_to_write(search)

    predict = command(
        "predict",
        "predict:main",
        "predict classes of images with the linear probe of an encoder",
        json_flag=True,
    )
    predict.add_argument("encoder", metavar="ENCODER", help=ENCODER_FORMS)
    predict.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", help=_IMAGES)
    overrides(predict)
    files_to_write(predict)

    report = command(
        "report",
        "report.command:main",
        "write one page about an encoder or features: metrics, curves, neighbours, map, outliers, duplicates",
        json_flag=True,
    )
    report.add_argument("source", metavar="ENCODER_OR_FEATURES", help=_SOURCE)
    overrides(report)
    report.add_argument(
        "--out", metavar="FILE.html", help="the page (default: report.html in the folder of a run)"
    )
    report.add_argument(
        "--map", choices=("pca", "umap", "tsne"), default="pca", help="how the map is made (default: pca)"
    )

    opening = command("open", "open:main", "open the report of a run or a comparison in a browser")
    opening.add_argument("folder", metavar="RUN", help="a folder with report.html")

    runs = command("runs", "runs:main", "list runs with their state, metric and size", json_flag=True)
    runs.add_argument(
        "folder", metavar="DIR", nargs="?", default="runs", help="that holds run folders (default: runs)"
    )

    export = command("export", "export:main", "write an encoder for other programs, with a model card")
    export.add_argument("encoder", metavar="ENCODER", help=ENCODER_FORMS)
    overrides(export)
    export.add_argument(
        "--format",
        choices=("timm", "onnx"),
        default="timm",
        help="the library that will load it (default: timm)",
    )
    export.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    export.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload the folder to this repository of the Hugging Face hub; a new one is private",
    )

    compare = command(
        "compare",
        "compare.command:main",
        "train recipes over several seeds and report the differences, also to encoders from elsewhere",
        json_flag=True,
    )
    compare.add_argument(
        "targets",
        metavar="RECIPE_OR_ENCODER",
        nargs="+",
        help="a recipe file or name, a grid file, the folder of a finished run, or an encoder from elsewhere "
        "(an exported folder, a file of weights, a timm model, hf_hub:OWNER/NAME); the first is the baseline",
    )
    compare.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="seeds per recipe: its own and those after it (default: 3)",
    )
    overrides(compare)
    compare.add_argument(
        "--minutes", **minutes, help="give each run as many epochs as fit in N minutes, evaluations included"
    )
    compare.add_argument(
        "--out", metavar="DIR", help="folder of report.html (default: comparisons/<names>-<8 hex>)"
    )

    command("schema", "schema:main", "print the JSON Schema of recipes for editors")

    plugin = command("plugin", None, "list, check or create plugins")
    plugin_commands = plugin.add_subparsers(metavar="COMMAND")
    plugin_list = plugin_commands.add_parser(
        "list", parents=[common], help="list installed plugins with versions"
    )
    plugin_list.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    plugin_list.set_defaults(command="catalogue:print_plugins")
    plugin_check = plugin_commands.add_parser(
        "check", parents=[common], help="test a plugin against the contracts of its parts"
    )
    plugin_check.add_argument(
        "plugin", metavar="NAME_OR_PATH", help="an installed plugin, or the folder of its package"
    )
    plugin_check.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    plugin_check.add_argument(
        "--quick", action="store_true", help="leave out the checks that start processes"
    )
    plugin_check.add_argument("--verbose", action="store_true", help="print the promise of every check, too")
    plugin_check.set_defaults(command="plugin_check:main")
    plugin_new = plugin_commands.add_parser(
        "new", parents=[common], help="create a plugin package to start from"
    )
    plugin_new.add_argument("name", metavar="NAME", help="the name of the package, such as my-loss")
    plugin_new.add_argument(
        "--kind",
        required=True,
        action="append",
        help=f"the kind of its part, {kinds}; several times for a package of several parts",
    )
    plugin_new.add_argument("--out", metavar="DIR", help="a new or empty folder (default: NAME)")
    plugin_new.set_defaults(command="plugin_new.scaffold:main")
    return parser


class _Version(argparse.Action):
    """Reads the version only when the option is used."""

    def __call__(self, *_: Any) -> None:
        from contrastive.versions import core_version

        print(f"contrastive {core_version()}")
        raise SystemExit(0)
