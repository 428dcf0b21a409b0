"""Random recipes and damaged images, which must give a sentence and an exit code, never a traceback.

``python scripts/fuzz.py recipes --count 10000`` and ``python scripts/fuzz.py images --count 1000`` print
the count of each outcome as JSON, and exit with 1 if a promise broke. Each broken promise is reported with
the options that reproduce it (``--seed 0 --first 1234 --count 1``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuzz_images import decode_outcome, mutated_image
from fuzz_recipes import Words, recipe_text

from contrastive.build import build
from contrastive.errors import ContrastiveError, RecipeError
from contrastive.recipe import load_recipe
from contrastive.registry import Registry, load_registry

ADDRESS_SPACE = 10 * 2**30  # bytes a child may map: an input that needs more fails in the child
Outcome = Callable[[int], str]


class BrokenPromise(Exception):  # noqa: N818 - a finding
    """A promise that an input broke."""


def random_source(seed: int, number: int) -> random.Random:
    """The random generator of one input."""
    return random.Random(f"{seed}/{number}")


def recipe_outcome(text: str, file: Path, registry: Registry) -> str:
    """``valid``, or the error's type and exit code. Raises BrokenPromise if anything else escapes."""
    file.write_text(text, "utf-8")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build(load_recipe(file, (), registry))
    except ContrastiveError as error:
        _check_error(error, file, text)
        return f"{type(error).__name__} ({error.exit_code})"
    except Exception as error:
        raise BrokenPromise(f"{type(error).__name__}: {error}"[:300]) from error
    return "valid"


def _check_error(error: ContrastiveError, file: Path, text: str) -> None:
    if error.exit_code not in (1, 2, 3):
        raise BrokenPromise(f"exit code {error.exit_code}")
    if not str(error).strip():
        raise BrokenPromise(f"a {type(error).__name__} with an empty message")
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
    for mistake in error.mistakes if isinstance(error, RecipeError) else ():
        where = mistake.where
        if where.file != str(file) or not 1 <= where.line <= lines or where.column < 1:
            raise BrokenPromise(f"a mistake without a location: {mistake}")
        if not str(mistake).isprintable():
            raise BrokenPromise(f"a message that is not one printable line: {str(mistake)!r}"[:300])


def process_outcome(text: str, file: Path) -> str:
    """The exit code of ``contrastive check``. Raises BrokenPromise for another code, or a traceback."""
    file.write_text(text, "utf-8")
    command = [sys.executable, "-m", "contrastive", "check", str(file)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if process.returncode not in (0, 1, 2, 3) or "Traceback" in process.stderr:
        raise BrokenPromise(f"exit code {process.returncode}: {process.stderr[-300:]}")
    if process.returncode and not process.stderr.strip():
        raise BrokenPromise(f"exit code {process.returncode} without a message")
    return f"process: exit code {process.returncode}"


def fuzz_recipes(seed: int, folder: Path) -> Outcome:
    registry = load_registry()
    words = Words(registry)

    def outcome(number: int) -> str:
        return recipe_outcome(recipe_text(random_source(seed, number), words), folder / "r.yaml", registry)

    return outcome


def fuzz_processes(seed: int, folder: Path) -> Outcome:
    words = Words(load_registry())
    return lambda number: process_outcome(recipe_text(random_source(seed, number), words), folder / "r.yaml")


def fuzz_images(seed: int, folder: Path) -> Outcome:
    def outcome(number: int) -> str:
        try:
            return decode_outcome(*mutated_image(random_source(seed, number)))
        except Exception as error:
            raise BrokenPromise(f"{type(error).__name__}: {error}"[:300]) from error

    return outcome


def _child(make: Callable[[int, Path], Outcome], seed: int, numbers: range, folder: str, pipe) -> None:
    """Send (number, None, False) before each input, and (number, outcome, is_broken) after it."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    torch.set_num_threads(1)
    outcome = make(seed, Path(folder))
    for number in numbers:
        pipe.send((number, None, False))
        try:
            pipe.send((number, outcome(number), False))
        except BrokenPromise as error:
            pipe.send((number, str(error), True))
    pipe.close()


def outcomes(
    make: Callable[[int, Path], Outcome], seed: int, numbers: range, limit: float = 120.0
) -> Iterator[tuple[int, str, bool]]:
    """(number, outcome, whether a promise broke) of each input, tried in a child process.

    A child that dies or does not answer for ``limit`` seconds is an outcome too; a new one continues.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        while numbers:
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(make, seed, numbers, folder, theirs))
            child.start()
            theirs.close()
            number, silent = numbers.start, False
            try:
                while not (silent := not ours.poll(limit)):
                    number, outcome, is_broken = ours.recv()
                    if outcome is not None:
                        yield number, outcome, is_broken
                        numbers = range(number + 1, numbers.stop)
            except EOFError:
                pass
            if silent:
                child.kill()
            child.join()
            if numbers:
                why = f"no answer in {limit:.0f} s" if silent else f"the process died ({child.exitcode})"
                yield number, why, True
                numbers = range(number + 1, numbers.stop)


def main() -> int:
    kinds = {"recipes": fuzz_recipes, "processes": fuzz_processes, "images": fuzz_images}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kind", choices=kinds, help="processes: recipes through `contrastive check`")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    arguments = parser.parse_args()
    numbers = range(arguments.first, arguments.first + arguments.count)
    counts: Counter[str] = Counter()
    start = time.monotonic()
    for number, outcome, is_broken in outcomes(kinds[arguments.kind], arguments.seed, numbers):
        counts["BROKEN" if is_broken else outcome] += 1
        if is_broken:
            print(f"{arguments.kind} --seed {arguments.seed} --first {number}: {outcome}", file=sys.stderr)
    seconds = round(time.monotonic() - start)
    print(json.dumps({**vars(arguments), "outcomes": dict(counts.most_common()), "seconds": seconds}))
    return 1 if counts["BROKEN"] else 0


if __name__ == "__main__":
    sys.exit(main())
