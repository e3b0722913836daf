"""Two-level scheduling: global time grids and the solvers of the inner flow. Imports no network."""
