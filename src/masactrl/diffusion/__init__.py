"""The mathematics of a run: noise levels, steps down and up, guidance, trajectories, the loop."""

from masactrl.diffusion.ddim import Walk, mean_down, spread, step_down, step_up
from masactrl.diffusion.guidance import guided
from masactrl.diffusion.noise import NoiseSchedule, Prediction, Spacing, timestep_grid
from masactrl.diffusion.sampling import Adjust, OnStep, Predict, Steer, denoise, put_back
from masactrl.diffusion.trajectory import Trajectory

__all__ = [
    "Adjust",
    "NoiseSchedule",
    "OnStep",
    "Predict",
    "Prediction",
    "Spacing",
    "Steer",
    "Trajectory",
    "Walk",
    "denoise",
    "guided",
    "mean_down",
    "put_back",
    "spread",
    "step_down",
    "step_up",
    "timestep_grid",
]
