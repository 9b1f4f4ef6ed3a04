"""For people in front of a notebook: quickstart, explorer, your radiographs."""
