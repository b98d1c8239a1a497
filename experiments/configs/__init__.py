"""One module for each row of the results: its settings and what to expect of it."""
