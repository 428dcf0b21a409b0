from .loading import load_backbone as load_backbone
from .onnx import export_onnx as export_onnx
from .onnx import require_free as require_free
from .onnx import require_onnx as require_onnx
from .probe import flops as flops
from .timm import Timm as Timm
from .torchvision import Torchvision as Torchvision
from .weights import mismatch as mismatch
