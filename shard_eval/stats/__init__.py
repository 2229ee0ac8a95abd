"""Statistics: pure functions, frozen results that remember method, n and level."""
