from .loading import load_backbone as load_backbone
from .onnx import export_onnx as export_onnx
from .timm import Timm as Timm
from .torchvision import Torchvision as Torchvision
