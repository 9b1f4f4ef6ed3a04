"""The notebooks in JupyterLab in a real browser; `make test-browser` runs these, `make test` not."""
