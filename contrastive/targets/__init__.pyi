from .ema import EMA as EMA
from .shared import Shared as Shared
from .stop_grad import StopGrad as StopGrad
