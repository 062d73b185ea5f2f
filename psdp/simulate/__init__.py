"""Jobs under a virtual clock: the decisions of :mod:`psdp.protocol`, with costs in place of work.

What a worker or server does takes the seconds that a cost model says, and thousands of workers fit
into one process. ``python -m psdp.simulate --help``.
"""
