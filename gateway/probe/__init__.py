"""`pointsman probe`: what a target really does, asked of it, compared with the configuration and written back."""
