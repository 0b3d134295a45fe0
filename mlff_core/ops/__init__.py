"""PaiNN's operators: their plain meaning and analytic backward, and the Triton kernels.

reference.py   every operator in plain PyTorch, forward and backward
analytic.py    energy and forces in one pass from those; operators over pairs can be exchanged
"""
