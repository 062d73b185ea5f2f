"""The reference of every kernel, a topic a file, written against an array module ``xp``.

Each kernel writes into arrays that it is given and walks them in blocks of rows that stay in the
cache, so a chain of element-wise operations reads and writes main memory once. Sums along rows and
columns are products with a vector of ones: BLAS runs them several times faster than ``sum``.
Nothing here knows of layers, parameters or the shape of a model.
"""
