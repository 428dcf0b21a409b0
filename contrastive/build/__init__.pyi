from .builder import Builder as Builder
from .builder import build as build
from .builder import untrained_of as untrained_of
from .composition import Composition as Composition
from .composition import Data as Data
from .composition import DataSets as DataSets
from .memory_guard import MemoryGuard as MemoryGuard
from .reach import trial_views as trial_views
