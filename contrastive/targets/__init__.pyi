from .absent import Absent as Absent
from .ema import EMA as EMA
from .shared import SharedEncoder as SharedEncoder
from .snapshot import Snapshot as Snapshot
from .stock import Stock as Stock
from .stop_grad import StopGrad as StopGrad
