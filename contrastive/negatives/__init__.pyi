from .in_batch import InBatch as InBatch
from .in_batch import NoNegatives as NoNegatives
