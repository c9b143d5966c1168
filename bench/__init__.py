"""The benchmark: one trainer, one protocol, one evaluation for every backbone."""
