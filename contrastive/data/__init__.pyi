from .loader import TrainLoader as TrainLoader
from .loader import augment as augment
from .loader import holdout as holdout
from .reading import read as read
