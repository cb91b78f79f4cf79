"""Methods that turn a network into a smaller one, and the pipeline that runs them."""
