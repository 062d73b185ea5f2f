"""A trained model for lm-evaluation-harness, under the name ``psdp``.

``import psdp.lm_eval.model`` makes it known there; ``python -m psdp.lm_eval`` is the harness's own
command line that knows it.
"""
