"""Multinomial logistic regression on frozen features, solved to its optimum."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from contrastive.errors import UsageError
from contrastive.parts import Protocol, Trial
from contrastive.protocols.labels import class_indices, join_labelled, top1
from contrastive.values import Feature, Features

#: After this many strengths in a row without a better validation accuracy, weaker ones are not tried.
_PATIENCE = 3


class LinearProbe(Protocol):
    """Multinomial logistic regression on frozen features, its L2 strength chosen on validation.

    Features are standardised by the statistics of the fitted images. The objective, mean cross
    entropy + l2 / 2 * ||weights||^2 (biases free), has one optimum, which L-BFGS finds from the
    strongest penalty to the weakest, each starting where the last ended: no learning rate, epochs or
    seed enter the metric. Source: the protocol of SimCLR (Chen et al. 2020, appendix B.8: L-BFGS, L2
    chosen on a held-out split of train), for linear evaluation on full train splits.

    Args:
        l2: strengths of the penalty to choose from; the middle one if no image with a label validates.
        feature: what is classified: features h of the backbone, or the head's embedding z.
    """

    version = 1

    def __init__(
        self,
        l2: Sequence[Annotated[float, Field(gt=0)]] = (
            3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5,
        ),
        feature: Feature = "h",
    ) -> None:  # fmt: skip
        if not l2:
            raise UsageError("linear: 'l2' is empty; give at least one strength, as in [0.1, 0.01].")
        self.l2, self.feature = sorted(l2, reverse=True), feature

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """``top1``: the fraction of images classified correctly.

        Without ``test``, of ``validation``, with the strength that is best there. With it, of ``test``, after
        a fit with that strength on ``fit`` and ``validation`` together; if ``fit`` or ``validation`` holds no
        labelled image, with the middle one of the strengths. Images without a label (-1) are left out; images
        of a class that the fitted images lack count as wrong.

        Raises:
            UsageError: the fitted or the scored images hold no labelled image.
            ContrastiveError: a feature is not finite.
        """
        return self._score(fit, validation, test, [fit, validation])

    def evaluate(self, trial: Trial) -> dict[str, float]:
        """As :meth:`score`; with a test split, the last fit is on the whole train split and nothing else."""
        fit, validation, test = trial.features(self.feature)
        if test is not None and not _can_choose(fit, validation):
            trial.remark(
                f"l2 is {self.default:g}, the middle of its strengths: no labelled image validates a choice"
            )
        train = trial.train_features(self.feature)
        if test is None or len(train) > 1:
            return self.score(fit, validation, test)
        return self._score(fit, validation, test, train)

    @property
    def default(self) -> float:
        """The strength if no image with a label validates: the middle one, of an even number the stronger."""
        return self.l2[(len(self.l2) - 1) // 2]

    def _score(
        self, fit: Features, validation: Features, test: Features | None, train: Sequence[Features]
    ) -> dict[str, float]:
        if test is None:
            return {"top1": self.choose(fit, validation)[1]}
        l2 = self.choose(fit, validation)[0] if _can_choose(fit, validation) else self.default
        images = join_labelled("linear", "train", *train)
        test = join_labelled("linear", "test", test)
        train_labels, test_labels, classes = class_indices(images.labels, test.labels)
        probe = Problem.of(images.vectors, train_labels, classes).solve(l2)
        return {"top1": top1(probe.predict(test.vectors), test_labels)}

    def choose(self, fit: Features, validation: Features) -> tuple[float, float]:
        """(strength, accuracy on ``validation``) of the best strength; of equally good ones the strongest."""
        fit = join_labelled("linear", "fit", fit)
        validation = join_labelled("linear", "validation", validation)
        fit_labels, labels, classes = class_indices(fit.labels, validation.labels)
        problem = Problem.of(fit.vectors, fit_labels, classes)
        best, best_l2, since, start = -1.0, self.l2[0], 0, None
        for l2 in self.l2:
            start = problem.solve(l2, start, tolerance=1e-4)
            accuracy = top1(start.predict(validation.vectors), labels)
            since = 0 if accuracy > best else since + 1
            if since == 0:
                best, best_l2 = accuracy, l2
            if since == _PATIENCE:
                break
        return best_l2, best


def _can_choose(fit: Features, validation: Features) -> bool:
    """Whether there are labels to fit on, and others to choose a strength by."""
    return all(bool((images.labels >= 0).any()) for images in (fit, validation))


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier: logits = ((h - mean) * scale) @ weight + bias."""

    mean: Tensor  # [F]
    scale: Tensor  # [F], 1 / standard deviation, 0 for a constant feature
    weight: Tensor  # [F, K]
    bias: Tensor  # [K]

    def logits(self, h: Tensor) -> Tensor:
        """[n, F] -> [n, K]."""
        return ((h - self.mean) * self.scale) @ self.weight.to(h.dtype) + self.bias.to(h.dtype)

    def predict(self, h: Tensor) -> Tensor:
        """The class of each row of h [n, F], [n] int64."""
        return self.logits(h).argmax(1)


@dataclass(frozen=True)
class Problem:
    """The regression in coordinates in which it converges quickly.

    The features are rotated to the axes of their covariance. A rotation does not change ||weights||, and
    along these axes the Hessian at zero weights is diagonal: variance / K + l2. Dividing the weights by its
    square root makes it the identity, so that L-BFGS needs tens of steps instead of the hundreds that it
    needs on the features themselves, whose variances differ by many orders of magnitude.
    """

    mean: Tensor  # [F]
    scale: Tensor  # [F]
    axes: Tensor  # [F, A], columns
    variances: Tensor  # [A] float64
    x: Tensor  # [n, A] standardised and rotated
    labels: Tensor  # [n] in 0..K-1
    classes: int  # K

    @classmethod
    def of(cls, h: Tensor, labels: Tensor, classes: int) -> Problem:
        """From features h [n, F] and labels [n] in 0..classes-1."""
        variance, mean = torch.var_mean(h, dim=0, correction=0)
        deviation = variance.sqrt()
        constant = deviation <= 1e-6 * mean.abs()  # what remains there is rounding
        scale = torch.where(constant, 0.0, 1 / deviation.masked_fill(constant, 1.0))
        x = (h - mean) * scale
        variances, axes = principal_axes(x)
        return cls(mean, scale, axes, variances, x @ axes, labels, classes)

    def solve(
        self, l2: float, start: Probe | None = None, tolerance: float = 1e-5, iterations: int = 1000
    ) -> Probe:
        """The optimum at strength ``l2``.

        Args:
            l2: strength of the penalty, > 0.
            start: a solution of this problem at another strength.
            tolerance: largest entry of the preconditioned gradient, which is close to the distance
                from the optimum in preconditioned weights.
            iterations: limit; a RuntimeWarning reports that it was reached before the optimum.
        """
        unit = self.variances.new_ones(1)
        # One row per axis and one, unpenalised, for the bias.
        scale = torch.cat([self.variances / self.classes + l2, unit / self.classes]).rsqrt()[
            :, None
        ]  # [A+1, 1]
        if start is None:
            v = scale.new_zeros(len(scale), self.classes)
        else:
            v = torch.cat([self.axes.double().T @ start.weight, start.bias[None]]) / scale
        v.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [v],
            max_iter=iterations,
            tolerance_grad=tolerance,
            tolerance_change=1e-3 * tolerance**2,  # near the optimum the loss is off by gradient^2 / 2
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            w = scale * v  # [A+1, K] float64; only the product with x runs in its precision
            logits = (self.x @ w[:-1].to(self.x.dtype)).double() + w[-1]  # [n, K]
            loss = F.cross_entropy(logits, self.labels) + l2 / 2 * w[:-1].square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)
            closure()
        assert v.grad is not None
        if (worst := v.grad.abs().max().item()) > 10 * tolerance:
            warnings.warn(
                f"linear: the probe at l2 {l2:g} did not reach its optimum (gradient {worst:.1e}).",
                RuntimeWarning,
                stacklevel=2,
            )
        w = (scale * v).detach()
        return Probe(self.mean, self.scale, self.axes.double() @ w[:-1], w[-1])


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [A] (float64) and axes [F, A] of centred features x [n, F].

    With fewer images than features the axes span only the images (A <= n): the penalty keeps the weights
    outside that span at zero, and a Gram matrix [n, n] finds it at a fraction of the cost.
    """
    n, width = x.shape
    if n >= width:
        variances, axes = torch.linalg.eigh((x.T @ x).double() / n)
        return variances.clamp(min=0), axes.to(x.dtype)
    variances, images = torch.linalg.eigh((x @ x.T).double() / n)  # [n], [n, n]
    positive = variances > 1e-9 * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    variances, images = variances[positive], images[:, positive]
    return variances, (x.double().T @ images / (variances * n).sqrt()).to(x.dtype)
