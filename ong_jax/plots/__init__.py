"""Pictures of masks and of runs.

They need matplotlib (extra `plot`). Every function draws into the Axes `ax` if
these are given, else into a figure of its own, and returns the Axes.
"""

from ong_jax.plots.kernels import densities as densities
from ong_jax.plots.kernels import kernel as kernel
from ong_jax.plots.kernels import overlap as overlap
from ong_jax.plots.runs import accuracy as accuracy
from ong_jax.plots.runs import churn as churn
