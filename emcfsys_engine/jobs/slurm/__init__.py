"""Jobs that Slurm runs: its commands, our scripts, what became of them."""
