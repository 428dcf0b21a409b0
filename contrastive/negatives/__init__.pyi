from .in_batch import InBatch as InBatch
from .no_negatives import NoNegatives as NoNegatives
