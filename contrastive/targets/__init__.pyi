from .ema import EMA as EMA
from .shared import SharedEncoder as SharedEncoder
from .stop_grad import StopGrad as StopGrad
