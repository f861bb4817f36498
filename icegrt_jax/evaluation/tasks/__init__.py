"""Tasks of lm-evaluation-harness over the public sets in the folder that ICEGRT_DATA names, without a network.

A .yaml file each, in the form and with the prompts of the harness's own; `sets.py` has what they call.
"""
