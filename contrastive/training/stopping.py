"""What a signal does while a run trains: the run ends after the work in progress, and nothing is lost."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager

from contrastive import interrupts
from contrastive.text import quantity
from contrastive.training.state import State


class Stopping:
    """The response of a run to signals. It says what a second signal would lose.

    Args:
        state: progress of the run; the engine advances it.
    """

    def __init__(self, state: State):
        self._state = state
        self._saved_step = 0

    def note_save(self) -> None:
        """The newest checkpoint is of this step."""
        self._saved_step = self._state.step

    def after(self, work: str, *, breaks: bool = False) -> AbstractContextManager[None]:
        """Within it, a signal ends training after this work, or breaks the work off; the run is saved."""

        def notice(number: int) -> str:
            when = "" if breaks else "after "
            return f"stopping {when}{work}; {_alternative(number)} {self._unsaved_steps()}"

        response = interrupts.Response(notice, self._loss, breaks=breaks, ends=False)
        return interrupts.responding(response)

    def _unsaved_steps(self) -> str:
        return quantity(self._state.step - self._saved_step, "step")

    def _loss(self) -> str:
        step = self._saved_step
        last = f"the checkpoint is of step {step}" if step else "there is no checkpoint yet"
        return f"stopped now, at step {self._state.step}, and lost {self._unsaved_steps()}: {last}"


def _alternative(number: int) -> str:
    """What would lose the steps that the message names next."""
    if interrupts.is_under_torchrun():  # it passes on no second Ctrl-C
        return "if torchrun ends it first, you lose"
    press = "press again" if number == signal.SIGINT else "press Ctrl-C"
    return f"{press} to stop now and lose"
