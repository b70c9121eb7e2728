from experiments import memory

memory.keep_freed()  # Here, because it has to come before JAX is imported.
