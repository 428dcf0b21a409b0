"""Look for shapes of convolutions that crash, hang or compute wrong gradients on this machine's CPU.

usage: python scripts/scan_convolutions.py [--channels N...] [--sizes N...] [--threads N] [--layouts NAME...]

Each shape takes one step forward and backward, in a forked process with others. If that process dies, its
shapes are halved until one shape dies alone. Gradients are compared with torch's without oneDNN. Prints
every bad shape, and whether training avoids it (``contrastive.convolutions``). The exit code is 1 if there
is one that it does not.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import nn

from contrastive.convolutions import overwrites_memory

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
#: Precision -> the largest error of a gradient, relative to its largest element.
PRECISIONS = {"fp32": 1e-4, "bf16": 4e-2}
SECONDS = 30  # until a process of a few shapes counts as hung
TOGETHER = 64


@dataclass(frozen=True)
class Shape:
    """A convolution and its input."""

    kernel: int
    stride: int
    inputs: int
    outputs: int
    groups: int
    size: int
    layout: str
    precision: str

    def __str__(self) -> str:
        return (
            f"{self.kernel}x{self.kernel} stride {self.stride}, {self.inputs} -> {self.outputs} channels"
            f" in {self.groups} groups, {self.size} px, {self.layout}, {self.precision}"
        )

    def convolution(self) -> nn.Conv2d:
        channels, padding = (self.inputs, self.outputs), self.kernel // 2
        return nn.Conv2d(*channels, self.kernel, self.stride, padding, groups=self.groups, bias=False)

    @property
    def has_detour(self) -> bool:
        """Whether training on a CPU computes it otherwise."""
        return overwrites_memory(self.convolution())


def shapes(arguments: argparse.Namespace) -> Iterator[Shape]:
    """Every shape to try."""
    for kernel, stride, layout, precision, size in product(
        (1, 3), (1, 2, 4), arguments.layouts, PRECISIONS, arguments.sizes
    ):
        for inputs, outputs in product(arguments.channels, arguments.channels):
            for groups in {1, inputs} if inputs == outputs else {1}:
                yield Shape(kernel, stride, inputs, outputs, groups, size, layout, precision)


def step(shape: Shape) -> list[torch.Tensor]:
    """The gradients of weights and input after a forward and a backward pass."""
    torch.manual_seed(0)
    convolution = shape.convolution().to(memory_format=LAYOUTS[shape.layout])
    images = max(2, 2**18 // (shape.size**2 * max(shape.inputs, shape.outputs)))
    x = torch.randn(images, shape.inputs, shape.size, shape.size)
    x = x.contiguous(memory_format=LAYOUTS[shape.layout]).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=shape.precision == "bf16"):
        y = convolution(x).float()
    weights = torch.randn(y.shape)  # not randn_like, which draws in the order of y's memory
    return list(torch.autograd.grad((y * weights).sum(), [convolution.weight, x]))


def fault(shape: Shape) -> str | None:
    """What is wrong with the gradients; None if nothing is."""
    gradients = step(shape)
    with torch.backends.mkldnn.flags(enabled=False):
        references = step(shape)
    for gradient, reference in zip(gradients, references, strict=True):
        off = (gradient - reference).abs().max() / reference.abs().max()
        if not off <= PRECISIONS[shape.precision]:
            return f"wrong gradient, by {off:.1g}"
    return None


def run_forked(batch: Sequence[Shape], threads: int) -> tuple[dict[int, str], str | None]:
    """Faults by index in a batch, and how the process that tried it died, if it did."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        torch.set_num_threads(threads)
        for index, shape in enumerate(batch):
            if message := fault(shape):
                os.write(writer, f"{index}\t{message}\n".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        faults = {int(index): message for index, message in (line.rstrip().split("\t") for line in stream)}
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code >= 0:
        return faults, None if code == 0 else f"exit code {code}"
    return faults, "hangs" if -code == signal.SIGALRM else f"dies of {signal.Signals(-code).name}"


def scan(batch: Sequence[Shape], threads: int) -> Iterator[tuple[Shape, str]]:
    """The bad shapes of a batch, and what each does."""
    faults, death = run_forked(batch, threads)
    if death is None:
        yield from ((batch[index], message) for index, message in faults.items())
    elif len(batch) == 1:
        yield batch[0], death
    else:
        half = len(batch) // 2
        bad = [*scan(batch[:half], threads), *scan(batch[half:], threads)]
        yield from bad or [(shape, f"{death}, together with others") for shape in batch]


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[1, 2, 3, 4, 7, 8, 9, 12, 15, 16, 24, 64])
    parser.add_argument("--sizes", type=int, nargs="+", default=[15, 64, 127])
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(words)
    warnings.filterwarnings("ignore", "TF32")  # of Intel's GPUs
    every = list(shapes(arguments))
    bad, unsafe = 0, 0
    for start in range(0, len(every), TOGETHER):
        for shape, message in scan(every[start : start + TOGETHER], arguments.threads):
            bad, unsafe = bad + 1, unsafe + (not shape.has_detour)
            print(f"{shape}: {message}; {'avoided' if shape.has_detour else 'NOT AVOIDED'}", flush=True)
    machine = f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"{machine}: {bad} of {len(every)} shapes are bad, of which training does not avoid {unsafe}")
    return int(unsafe > 0)


if __name__ == "__main__":
    sys.exit(main())
