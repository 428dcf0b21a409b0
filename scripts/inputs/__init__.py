"""Inputs that are easily misread, by lettered fault; ``scripts/try_inputs.py`` tries them."""
