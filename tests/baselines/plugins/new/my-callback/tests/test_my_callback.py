from types import SimpleNamespace

import contrastive.testing
import pytest

from my_callback import MyCallback


def averages(part, losses):
    """What ``part`` logs after one epoch of ``losses``."""
    logged = []
    run = SimpleNamespace(log=logged.append)
    for loss in losses:
        part.step_done(run, {"loss": loss})
    part.epoch_done(run, epoch=1)
    return [figures["loss_average"] for figures in logged]


def test_the_average_is_weighted_towards_the_last_steps():
    assert averages(MyCallback(momentum=0.5), [3.0, 3.0]) == [3.0]
    assert averages(MyCallback(momentum=0.5), [1.0, 4.0]) == pytest.approx([3.0])
    assert averages(MyCallback(), []) == []


def test_it_goes_on_where_it_was():
    whole, first, second = MyCallback(), MyCallback(), MyCallback()
    averages(first, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    assert averages(second, [5.0]) == averages(whole, [1.0, 2.0, 5.0])


@pytest.mark.parametrize("check", contrastive.testing.checks("my-callback"), ids=str)
def test_conformance(check):
    check()
