"""Jobs on a real Slurm: a controller and two virtual nodes on this machine, loopback only."""
