"""From a folder of your films to masks on them, and whether DoLL paid there (notebook 11)."""
