"""The commands of emcfsys-engine: parse, call one function, exit code."""
