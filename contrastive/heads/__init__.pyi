from .mlp import MLP as MLP
from .mlp import Linear as Linear
from .mlp import NoHead as NoHead
