"""The protocol ``my_protocol``."""

import torch
from contrastive import hookimpl
from contrastive.parts import Protocol
from contrastive.protocols.labelled import labelled, top1
from contrastive.values import Features
from torch.nn import functional as F

contrastive_api = 1


class MyProtocol(Protocol):
    """Nearest class mean in cosine similarity: no parameters, nothing to choose."""

    version = 1
    at = "every"

    def score(self, fit: Features, validation: Features, test: Features | None = None) -> dict[str, float]:
        """``top1``: the fraction of images that are nearest to the mean of their own class.

        Means are of ``fit`` for ``validation``; of both for ``test``. Images without a label are left
        out. Raises UsageError where none has one.
        """
        parts, asked = ([fit], validation) if test is None else ([fit, validation], test)
        known = labelled("my_protocol", "fit", *parts)
        queries = labelled("my_protocol", "queried", asked)
        classes = known.labels.unique()  # [K]
        h = F.normalize(known.h, dim=1)
        means = torch.stack([h[known.labels == label].mean(0) for label in classes])  # [K, F]
        nearest = (F.normalize(queries.h, dim=1) @ F.normalize(means, dim=1).T).argmax(1)  # [n]
        return {"top1": top1(classes[nearest], queries.labels)}


@hookimpl
def register_protocol(register):
    register("my_protocol", MyProtocol)
