from .ema import EMA as EMA
from .ema import Shared as Shared
from .ema import StopGrad as StopGrad
