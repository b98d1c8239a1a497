"""Programs that train and measure with dann_jax; nothing imports them."""
