"""Broken optimizers."""

from contrastive.optimizers import SGDPart

SGD_ARGUMENTS = SGDPart.__doc__[SGDPart.__doc__.index("Args:") :]


class ForgetsBiases(SGDPart):
    __doc__ = f"Trains what has more than one dimension, and nothing else.\n\n    {SGD_ARGUMENTS}"

    def build(self, model, batch_size):
        optimizer = super().build(model, batch_size)
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p.ndim > 1]
        return optimizer


class FallsBelowZero(SGDPart):
    __doc__ = f"A linear schedule that counts one step too many.\n\n    {SGD_ARGUMENTS}"

    def factor(self, group, step, steps, steps_per_epoch):
        return 1 - (step + 2) / steps


FAULTS = {
    ForgetsBiases: "covers",
    FallsBelowZero: "schedule",
}
