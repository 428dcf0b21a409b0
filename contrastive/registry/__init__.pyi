from .registry import KNOWN_PLUGINS as KNOWN_PLUGINS
from .registry import Entry as Entry
from .registry import Problem as Problem
from .registry import Registry as Registry
from .registry import interface_misfit as interface_misfit
from .registry import load_registry as load_registry
