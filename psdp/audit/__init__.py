"""``python -m psdp.audit RUN``: what a run folder proves of its run, and what contradicts it.

The events are decided upon once more, by the policy of the run's mode; what comes of that is
counted here by other means, and compared with what the run wrote down: metrics, checkpoints and
summary. Nothing is trained, but for what ``--recompute`` asks for.
"""
