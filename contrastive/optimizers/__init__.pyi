from .groups import Group as Group
from .lars import LARS as LARS
from .rates import LearningRate as LearningRate
from .rates import ScaledRate as ScaledRate
from .scheduled import AdamWPart as AdamWPart
from .scheduled import LARSPart as LARSPart
from .scheduled import SGDPart as SGDPart
