"""The mathematics of a run: noise levels, steps down and up, guidance, trajectories, the loop."""

from masactrl.diffusion.ddim import Walk, mean_down, spread, step_down, step_up
from masactrl.diffusion.flow import FlowRule, flow_step
from masactrl.diffusion.guidance import guided
from masactrl.diffusion.noise import (
    NoiseKind,
    NoiseSchedule,
    Prediction,
    Spacing,
    flow_schedule,
    freshened,
    noise_like,
    timestep_grid,
)
from masactrl.diffusion.sampling import Adjust, OnStep, Predict, Steer, denoise, put_back
from masactrl.diffusion.trajectory import Trajectory

__all__ = [
    "Adjust",
    "FlowRule",
    "NoiseKind",
    "NoiseSchedule",
    "OnStep",
    "Predict",
    "Prediction",
    "Spacing",
    "Steer",
    "Trajectory",
    "Walk",
    "denoise",
    "flow_schedule",
    "flow_step",
    "freshened",
    "guided",
    "mean_down",
    "noise_like",
    "put_back",
    "spread",
    "step_down",
    "step_up",
    "timestep_grid",
]
