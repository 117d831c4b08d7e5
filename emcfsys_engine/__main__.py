"""`python -m emcfsys_engine` is `emcfsys-engine`."""

from emcfsys_engine.cli import main

main()
