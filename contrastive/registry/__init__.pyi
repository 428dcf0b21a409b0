from .registry import Entry as Entry
from .registry import Registry as Registry
from .registry import load_registry as load_registry
