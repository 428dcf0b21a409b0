from .backbones.loading import load_backbone as load_backbone
from .comparison.comparison import Comparison as Comparison
from .kinds import hookimpl as hookimpl
from .runs.folder import Run as Run
from .runs.job import run as run
from .training.method import Method as Method
