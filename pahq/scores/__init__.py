"""Methods that score every edge at once, in place of a search."""
