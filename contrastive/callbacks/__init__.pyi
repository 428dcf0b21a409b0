from .early_stopping import EarlyStopping as EarlyStopping
