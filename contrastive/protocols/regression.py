"""Multinomial logistic regression with an L2 penalty, solved to its optimum in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from contrastive.protocols.labelled_rows import CHUNK, LabelledRows
from contrastive.protocols.labels import Ranking

#: The most logits of a problem that is solved on all images at once.
ONE_PASS = 1 << 19
#: Features or logits of a chunk of a larger problem, at least and at most.
_LEAST_CHUNK, _LARGEST_CHUNK = 1 << 18, 1 << 24
#: Pairs of vectors that L-BFGS remembers, at least and at most; and bytes that they may take in any case if a
#: problem is solved on all images at once.
_LEAST_HISTORY, _HISTORY, _HISTORY_BYTES = 3, 100, 1 << 25
#: Vectors of the size of the weights that a solution takes in addition.
_SOLVER_VECTORS = 20


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier: logits = ((h - mean) * scale) @ weight + bias."""

    mean: Tensor  # [F]
    scale: Tensor  # [F], 1 / standard deviation, 0 for a constant feature
    weight: Tensor  # [F, K]
    bias: Tensor  # [K]

    def logits(self, h: Tensor) -> Tensor:
        """[n, F] -> [n, K]."""
        return ((h - self.mean).mul_(self.scale) @ self.weight.to(h.dtype)).add_(self.bias.to(h.dtype))

    def predict(self, h: Tensor | LabelledRows) -> Tensor:
        """The class of each row of h [n, F], [n] int64."""
        return torch.cat([logits.argmax(1) for logits in self._logits_in_chunks(h)])

    def ranking(self, h: Tensor | LabelledRows, labels: Tensor) -> Ranking:
        """How it ranks the classes of each row of h [n, F], whose own ones are ``labels`` [n], or -1."""
        first, parts = 0, []
        for logits in self._logits_in_chunks(h):
            parts.append(Ranking.of(logits, labels[first : first + len(logits)]))
            first += len(logits)
        return Ranking.join(parts)

    def _logits_in_chunks(self, h: Tensor | LabelledRows) -> Iterator[Tensor]:
        size = max(1, CHUNK // max(self.weight.shape))
        probe = replace(self, weight=self.weight.to(self.mean.dtype))  # converted once
        for chunk in h.split(size) if isinstance(h, Tensor) else h.chunks(size):
            yield probe.logits(chunk)


@dataclass(frozen=True)
class StandardisedRows:
    """Rows in chunks, each standardised when it is read: features (h - mean) * scale.

    Attributes:
        rows: features [n, F] with labels in 0..K-1.
        mean, scale: [F].
        size: rows per chunk.
    """

    rows: LabelledRows
    mean: Tensor
    scale: Tensor
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes of all features, which are not held a second time."""
        return self.rows.nbytes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [c, F] and labels [c] of one chunk after the other."""
        for h, labels in self.rows.labelled_chunks(self.size):
            yield (h - self.mean).mul_(self.scale), labels


@dataclass(frozen=True)
class Problem:
    """The regression in coordinates in which it converges quickly.

    The features are rotated to the axes of their covariance. A rotation does not change ||weights||, and
    along these axes the Hessian at zero weights is diagonal: variance / K + l2. Dividing the weights by its
    square root makes it the identity, so that L-BFGS needs tens of steps instead of the hundreds that it
    needs on the features themselves, whose variances differ by many orders of magnitude.

    A small problem holds its features standardised and rotated, and every step passes over all of them at
    once. A larger one reads them in chunks as they are: in place of the features it rotates the weights.
    """

    mean: Tensor  # [F]
    scale: Tensor  # [F]
    axes: Tensor  # [F, A], columns
    variances: Tensor  # [A] float64
    x: Tensor | StandardisedRows  # [n, A] standardised and rotated; or [n, F] standardised
    labels: Tensor  # [n] in 0..K-1
    classes: int  # K

    @classmethod
    def of(cls, h: Tensor | LabelledRows, labels: Tensor, classes: int) -> Problem:
        """From features h [n, F], which stay as they are, and labels [n] in 0..classes-1."""
        rows = LabelledRows([(h, None)], labels) if isinstance(h, Tensor) else replace(h, labels=labels)
        if len(rows) * classes > ONE_PASS:
            size = _chunk_size(len(rows), rows.width, classes)
            mean, variance = _moments(rows, size)
            dtype = rows.parts[0][0].dtype
            mean, scale = mean.to(dtype), _inverse_deviation(mean, variance).to(dtype)
            chunks = StandardisedRows(rows, mean, scale, size)
            return cls(mean, scale, *_axes_of_chunks(chunks), chunks, labels, classes)
        x = rows.copy()
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        scale = _inverse_deviation(mean, variance)
        x.sub_(mean).mul_(scale)
        variances, axes = principal_axes(x)
        return cls(mean, scale, axes, variances, _rotate(x, axes), labels, classes)

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
            history_size=_history_size(v.nbytes, self.x.nbytes, not isinstance(self.x, Tensor)),
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            v.grad = None  # before the next one is made
            loss, v.grad = self._objective(v, scale, l2)
            return loss

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

    def _objective(self, v: Tensor, scale: Tensor, l2: float) -> tuple[Tensor, Tensor]:
        """The objective, and its gradient, at v [A+1, K]: the weights and biases divided by ``scale``."""
        if not isinstance(self.x, Tensor):
            return self._objective_in_chunks(self.x, v, scale, l2)
        with torch.enable_grad():
            w = scale * v  # [A+1, K] float64; only the product with x runs in its precision
            logits = (self.x @ w[:-1].to(self.x.dtype)).double().add_(w[-1])  # [n, K]
            loss = F.cross_entropy(logits, self.labels) + l2 / 2 * w[:-1].square().sum()
        (gradient,) = torch.autograd.grad(loss, v)
        return loss.detach(), gradient

    @torch.no_grad()
    def _objective_in_chunks(
        self, chunks: StandardisedRows, v: Tensor, scale: Tensor, l2: float
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`_objective`, in one pass over the chunks; hardly more is held than the two vectors."""
        w, axes, n = scale * v, self.axes.double(), len(chunks.rows)
        weight = (axes @ w[:-1]).to(self.mean.dtype)  # [F, K]
        total = w.new_zeros(())  # of the cross entropy
        of_weight = torch.zeros_like(weight, dtype=w.dtype)
        gradient = torch.zeros_like(v)
        for x, labels in chunks:
            logits = (x @ weight).double().add_(w[-1])  # [c, K]
            normaliser = logits.logsumexp(1, keepdim=True)
            total += (normaliser - logits.gather(1, labels[:, None])).sum()
            error = logits.sub_(normaliser).exp_()  # probabilities, less 1 at the label
            error.scatter_add_(1, labels[:, None], error.new_full((len(x), 1), -1.0))
            gradient[-1] += error.sum(0)
            of_weight += x.T @ error.to(x.dtype)
        torch.mm(axes.T, of_weight, out=gradient[:-1])
        gradient.div_(n)[:-1].add_(w[:-1], alpha=l2)
        penalty = l2 / 2 * torch.dot(w[:-1].flatten(), w[:-1].flatten())
        return total / n + penalty, gradient.mul_(scale)


def working_bytes(images: int, width: int, classes: int) -> int:
    """An estimate of what a solution holds besides float32 features of these images, at most.

    Args:
        images: n.
        width: F.
        classes: K.
    """
    features, vector = 4 * images * width, 8 * (min(images, width) + 1) * classes
    in_chunks = images * classes > ONE_PASS
    if in_chunks:
        size = min(images, _chunk_size(images, width, classes))
        passes = size * (4 * width + 24 * classes)  # the chunk; logits and their copies
    else:
        passes = features + 36 * images * classes  # standardised features; logits and what autograd saves
    vectors = _SOLVER_VECTORS + 2 * _history_size(vector, features, in_chunks)
    return passes + vectors * vector + 4 * 8 * min(images, width) ** 2  # the covariance and its axes


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [A] (float64) and axes [F, A] of centred features x [n, F].

    With fewer images than features the axes span only the images (A <= n): the penalty keeps the weights
    outside that span at zero, and a Gram matrix [n, n] finds it at a fraction of the cost.
    """
    n, width = x.shape
    if n >= width:
        return _axes_of_covariance((x.T @ x).double() / n, x.dtype)
    variances, images = torch.linalg.eigh((x @ x.T).double() / n)  # [n], [n, n]
    positive = variances > 1e-9 * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    variances, images = variances[positive], images[:, positive]
    return variances, (x.double().T @ images / (variances * n).sqrt()).to(x.dtype)


def _axes_of_covariance(covariance: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    variances, axes = torch.linalg.eigh(covariance)
    return variances.clamp(min=0), axes.to(dtype)


def _axes_of_chunks(chunks: StandardisedRows) -> tuple[Tensor, Tensor]:
    """Axes [F, A] and variances [A] of the features, as :func:`principal_axes` finds them."""
    n, width = len(chunks.rows), chunks.rows.width
    if n < width:  # few images: together they take less than the covariance
        variances, axes = principal_axes(torch.cat([x for x, _ in chunks]))
    else:
        covariance = chunks.mean.new_zeros(width, width, dtype=torch.float64)
        for x, _ in chunks:
            covariance += x.T @ x
        variances, axes = _axes_of_covariance(covariance.div_(n), chunks.mean.dtype)
    return axes, variances


def _rotate(x: Tensor, axes: Tensor) -> Tensor:
    """x @ axes, in place of x if it has as many columns."""
    if axes.shape[0] != axes.shape[1]:
        return x @ axes
    for block in x.split(max(1, 4 * CHUNK // len(axes))):
        block.copy_(block @ axes)
    return x


def _moments(rows: LabelledRows, size: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each feature, [F] float64, joined from those of chunks (Chan et al. 1983)."""
    count, mean = 0, rows.parts[0][0].new_zeros(rows.width, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for chunk in rows.chunks(size):
        variance_of_chunk, mean_of_chunk = (
            value.double() for value in torch.var_mean(chunk, dim=0, correction=0)
        )
        total, difference = count + len(chunk), mean_of_chunk - mean
        squares += len(chunk) * (variance_of_chunk + difference.square() * (count / total))
        mean += difference * (len(chunk) / total)
        count = total
    return mean, squares / count


def _inverse_deviation(mean: Tensor, variance: Tensor) -> Tensor:
    """1 / standard deviation, 0 for a constant feature."""
    deviation = variance.sqrt()
    constant = deviation <= 1e-6 * mean.abs()  # what remains there is rounding
    return torch.where(constant, 0.0, 1 / deviation.masked_fill(constant, 1.0))


def _chunk_size(images: int, width: int, classes: int) -> int:
    """Rows per chunk: their logits take at most a tenth of what all features take, if these are large."""
    values = min(_LARGEST_CHUNK, max(_LEAST_CHUNK, images * width // 64))
    return max(1, values // max(width, classes))


def _history_size(vector_bytes: int, feature_bytes: int, in_chunks: bool) -> int:
    """Pairs of vectors that L-BFGS remembers: all its vectors take at most 0.7 of what the features take."""
    budget = 7 * feature_bytes // 10 - _SOLVER_VECTORS * vector_bytes
    if not in_chunks:
        budget = max(budget, _HISTORY_BYTES)
    return min(_HISTORY, max(_LEAST_HISTORY, budget // (2 * vector_bytes)))
