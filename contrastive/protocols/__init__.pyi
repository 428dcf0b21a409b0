from .classifier import LinearClassifier as LinearClassifier
from .finetune import FineTune as FineTune
from .knn import KNN as KNN
from .linear import LinearProbe as LinearProbe
from .neighbours import nearest_others as nearest_others
from .retrieval import Retrieval as Retrieval
