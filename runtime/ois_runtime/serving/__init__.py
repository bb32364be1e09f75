"""Code that runs inside Triton: the Python models of the model repository.

Exported model repositories import `segment_model` and `ensemble_models`, so these keep their names.
"""
