"""Messages whose remedy no test follows: file -> words of the message -> the reason.

Everything else that collects as a remedy needs a ``Remedy`` in a list ``REMEDIES`` of a test in this folder.
"""

from __future__ import annotations

_SPEED = "advice on speed: whether it helps depends on the machine"
_TRAINING = "advice on training: whether it helps shows only in long runs"
_MEMORY = "reported when a machine's memory runs out"
_TEXT = "not a remedy: text of a file that is written"
_PROCESSES = "needs two processes, which take seconds to start; tests/testing run the check"
_GUARD = "no part can break this promise through the interface; the check guards the interface"

EXEMPT: dict[str, dict[str, str]] = {
    "commands/profiler.py": {
        "raise train.workers, resize": _SPEED,
        "Remove operations from the augmentation": _SPEED,
        "use a smaller or narrower backbone": _SPEED,
        "Use fewer candidates": _SPEED,
        "Take fewer, larger steps": _SPEED,
        "whatever the batch size: raise": _SPEED,
        "Evaluate less often": _SPEED,
    },
    "contrastive/monitors.py": {
        "Lower the weight decay": _TRAINING,
        "Lower the learning rate, or raise": _TRAINING,
        "Check that negatives or a predictor": _TRAINING,
        "Check that negatives, a predictor or": _TRAINING,
        "Check the augmentation and the temperature": _TRAINING,
        "Check that the target has not": _TRAINING,
    },
    "evaluation/verdict.py": {"; train longer": _TRAINING, "; train shorter, or augment": _TRAINING},
    "contrastive_byol.py": {"may be too high: lower": _TRAINING},
    "testing/processes.py": {
        "; move it into a module": _PROCESSES,
        "this is one of them; put": _PROCESSES,
        "; guard the checks of a script with": _PROCESSES,
    },
    "rules/every_part.py": {
        "leave that to the user": "needs an interpreter of its own, which takes seconds to start",
        "annotate its parameters with plain": _GUARD,
    },
    "rules/loss.py": {"set normalised = False": _GUARD},
    "rules/negatives.py": {"so they are their own negatives": _GUARD},
    "rules/step.py": {"keep values that differ between": _PROCESSES},
    "training/health.py": {
        "while evaluating: free memory": _MEMORY,
        "take a smaller backbone": _MEMORY,
        "try train.chunk_size": _MEMORY,
        "; set train.nonfinite=skip": "tests/runs follow it: a run with a non-finite step continues with it",
    },
    "compare/plots.py": {"further left (more uniform)": "not a remedy: the caption of a plot"},
    "backbones/timm.py": {"The one import is needed": _TEXT},
    "backbones/pretrained.py": {"Accept them on the page of the hub": "needs a network and an account"},
}
