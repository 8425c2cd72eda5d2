"""The version of the package: written here and read everywhere else."""

__version__ = "0.1.0"
