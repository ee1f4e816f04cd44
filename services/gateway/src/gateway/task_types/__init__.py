"""The catalogue: which task types there are, and whether an input is right for one."""
