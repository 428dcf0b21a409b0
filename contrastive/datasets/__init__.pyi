from .fashion_mnist_sample import FashionMNISTSample as FashionMNISTSample
from .hugging_face import HuggingFace as HuggingFace
from .image_folder import ImageFolder as ImageFolder
from .parquet import Parquet as Parquet
from .readings import former_fingerprint_of as former_fingerprint_of
from .readings import reading_of as reading_of
from .subset import Subset as Subset
from .torchvision import Torchvision as Torchvision
