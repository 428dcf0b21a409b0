from .alarms import Alarms as Alarms
from .evaluation import Evaluation as Evaluation
from .evaluation import TimedProtocol as TimedProtocol
from .evaluation import frozen as frozen
from .trial import EncoderTrial as EncoderTrial
from .trial import SplitImages as SplitImages
from .trial import Witness as Witness
