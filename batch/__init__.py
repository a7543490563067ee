"""Many folds trained unattended, on this machine or a cluster; no notebook imports this package."""
