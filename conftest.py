"""Names that the examples in docstrings may use without importing them."""

import jax
import jax.numpy as jnp
import optax
import pytest


@pytest.fixture(autouse=True)
def _names(doctest_namespace):
  doctest_namespace.update(jax=jax, jnp=jnp, optax=optax)
