from .margin import Margin as Margin
from .nt_logistic import NTLogistic as NTLogistic
from .nt_xent import NTXent as NTXent
