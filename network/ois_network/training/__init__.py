"""Training: the paper's recipe, and the small network that ships.

    config.py    a recipe: one dataclass, read from TOML (recipes/)
    trainer.py   the loop: steps, checkpoints, resuming; processes.py, state.py, progress.py
    rounds.py    a batch through the simulated clicks; forward.py, losses.py, optimise.py
    data/        samples and batches: procedural scenes, HQSeg44K, DAVIS, folders; augmentation
    scenes/      procedural scenes with exact masks and depth
    clicks/      the simulated clicks of training, and the robot user of evaluation
    evaluate.py  the robot user during training

Needs SciPy in addition to torch.
"""
