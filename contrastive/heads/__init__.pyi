from .linear import Linear as Linear
from .mlp import MLP as MLP
from .no_head import NoHead as NoHead
