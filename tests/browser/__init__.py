"""The notebooks in JupyterLab in a browser: for `make test-browser`, not for `make test`."""
