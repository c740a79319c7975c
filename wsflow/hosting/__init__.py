"""An app inside the server of somebody else."""
