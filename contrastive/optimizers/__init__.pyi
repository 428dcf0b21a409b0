from .adamw import AdamWPart as AdamWPart
from .groups import Group as Group
from .lars import LARS as LARS
from .lars import LARSPart as LARSPart
from .rates import LearningRate as LearningRate
from .rates import ScaledRate as ScaledRate
from .sgd import SGDPart as SGDPart
