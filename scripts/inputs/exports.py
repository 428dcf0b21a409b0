"""The exported encoder, by timm's own transform, against ``embed``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from inputs.case import RUN, Attempt, Case, Cases, Judge, Outcome, Verdict, shorten
from inputs.writing import Builder, encode, folder_recipe, photograph, write

CASES = Cases()
#: Side of the training images -> whether all images that the encoder was trained on have it.
SIDES = {28: True, 32: False, 64: False, 96: True, 160: False, 224: False, 256: True}
#: Kind of image -> its width and height for a side.
KINDS: dict[str, Callable[[int], tuple[int, int]]] = {
    "of the training size": lambda side: (side, side),
    "smaller": lambda side: (side * 3 // 4, side * 2 // 3),
    "larger": lambda side: (side * 3 // 2 + 1, side * 2 - 3),
    "5:1": lambda side: (side * 5, side),
}
LIMIT = 0.01  # relative difference of features
#: Prints how much the features of ``embed`` and those of timm, as the export declares its images, differ.
COMPARISON = """
import pathlib
import pyarrow.parquet as pq
import timm, torch
from PIL import Image
folder = "local-dir:" + str(pathlib.Path("o/backbone").resolve())
net = timm.create_model(folder, pretrained=True, num_classes=0).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
table, largest = pq.read_table("f.parquet").to_pydict(), {}
for name, features in zip(table["name"], table["features"]):
    with torch.no_grad():
        other = net(transform(Image.open(pathlib.Path("e", name)).convert("RGB"))[None])[0]
    kind, difference = name[0], float((torch.tensor(features) - other).norm() / other.norm())
    largest[kind] = max(largest.get(kind, 0.0), difference)
print(*(f"{kind} {difference}" for kind, difference in largest.items()), sep="\\n")
"""


def build(side: int, equal: bool) -> Builder:
    def write_images(folder: Path) -> None:
        for n in range(12):
            sides = (side, side) if equal else (side + 5 * n, side + 3 * n)
            write(folder / f"d/{n}.png", encode(photograph(n, *sides)))
        for kind, sides_of in enumerate(KINDS.values()):
            for n in range(4):
                write(folder / f"e/{kind}-{n}.png", encode(photograph(50 + 10 * kind + n, *sides_of(side))))
        folder_recipe(folder, size=side, backbone="{name: timm, model: test_resnet}")

    return write_images


def judge_of(kind: int) -> Judge:
    def judge(outcome: Outcome) -> Verdict:
        call = outcome.call()
        values = dict(line.split() for line in call.output.splitlines() if len(line.split()) == 2)
        if str(kind) not in values:
            return Verdict(False, shorten(call.text))
        difference = float(values[str(kind)])
        return Verdict(difference <= LIMIT, f"features differ by {100 * difference:.1f} %")

    return judge


for _side, _equal in SIDES.items():
    _attempt = Attempt(
        build(_side, _equal),
        (
            RUN,
            ("embed", "o", "--out", "f.parquet", "--set", "dataset.root=e"),
            ("-c", COMPARISON),
        ),
    )
    for _kind, _name in enumerate(KINDS):
        _source = "images of one size" if _equal else "images of many sizes"
        CASES.append(
            Case("3", f"trained at {_side} on {_source}: an image {_name}", _attempt, judge_of(_kind))
        )
