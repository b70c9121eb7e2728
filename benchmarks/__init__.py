import experiments as experiments  # Before JAX, so that memory is as in a run.
