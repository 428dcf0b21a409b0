from .finetune import FineTune as FineTune
from .knn import KNN as KNN
from .linear import LinearProbe as LinearProbe
from .retrieval import Retrieval as Retrieval
