"""A corpus of bad inputs: each must be refused in one clear line, before anything is damaged."""
