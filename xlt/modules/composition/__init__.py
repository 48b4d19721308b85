"""Operators that compute one module from several, and expressions over modules that consist of them.

`arithmetic` and `merging` are what operators share; `expression` finds, reads and computes expressions; every other
file is an operator.
"""
