"""Hydra config groups of xlt; a package so that an installed `xlt` finds them away from the checkout."""
