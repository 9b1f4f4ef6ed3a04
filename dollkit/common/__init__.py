"""What every stage may use: errors, paths, findings, devices, statistics."""
