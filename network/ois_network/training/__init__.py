"""Training: the paper's recipe, and the small network that ships.

    config.py     a recipe: one dataclass, from TOML (recipes/paper.toml, recipes/tiny.toml)
    trainer.py    the loop: steps, checkpoints, resume; processes.py, state.py, progress.py
    rounds.py     one batch through the simulated clicks; forward.py, losses.py, clicks.py
    batches.py    what a step sees, as a function of (seed, step)
    scenes.py     procedural scenes with exact masks and depth; shapes.py, textures.py
    pairs.py      HQSeg44K, DAVIS, folders; data.py reads, augment.py augments
    features.py   a frozen encoder's features on disk
    robot.py      the evaluation's user; evaluate.py asks it while training

SciPy is needed, beside torch.
"""
