"""Kernels for GPUs, in Triton: imported only where triton is there (on a GPU it comes with torch).

Written so that no length, rank or number of adapters is a compile-time constant: what was compiled once serves all.
"""
