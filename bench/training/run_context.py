"""Context of a run on one rank, the argument of every stage."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass

import torch

from architectures.interface import IOSpec
from bench.config.schema import RunConfig
from bench.data.dataset import Dataset, DataSource
from bench.data.sources import open_dataset, open_source
from bench.experiments.presets import network_io
from bench.storage.run_folder import RunFolder
from bench.training.distributed import SINGLE_PROCESS, StopRequested, World, device_of


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run's folder, its resolved config, its opened data, and this process's device and rank."""

    run: RunFolder
    config: RunConfig
    source: DataSource
    dataset: Dataset
    io: IOSpec
    """Shape of the network's input and output."""
    device: torch.device
    world: World = SINGLE_PROCESS
    stop_requested: Callable[[], bool] = lambda: False
    """Whether this process must stop, because of a signal or because its launcher has ended."""
    check_lease: Callable[[], None] = lambda: None
    """Raise LeaseLost if another process holds the run's lease; rank 0 calls it before it writes."""

    @classmethod
    def open(
        cls,
        run: RunFolder,
        config: RunConfig,
        world: World = SINGLE_PROCESS,
        stop_requested: Callable[[], bool] = lambda: False,
        check_lease: Callable[[], None] = lambda: None,
    ) -> RunContext:
        """Open the data set of a run once; a run of published weights needs only its reference images.

        Raises ValueError if the data are missing or have changed, or if the device is missing.
        """
        source = open_source(config.data.name, config.data.root)
        return cls(
            run=run,
            config=config,
            source=source,
            dataset=open_dataset(config.data, source, trained=not config.model.weights),
            io=network_io(config, source),
            device=device_of(config, world),
            world=world,
            stop_requested=stop_requested,
            check_lease=check_lease,
        )

    def raise_if_stopped(self) -> None:
        """Raise LeaseLost if the lease is lost, StopRequested if this process must stop."""
        self.check_lease()
        if self.stop_requested():
            raise StopRequested

    def raise_if_any_stopped(self) -> None:
        """Raise StopRequested if this rank or, earlier, another rank had to stop; raise LeaseLost on this rank only."""
        self.world.check(self.raise_if_stopped)

    def log_peak_memory(self) -> int:
        """Log and return the peak memory so far in bytes, of the GPU or, on a CPU, of this process."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated()
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.run.log("memory", peak_memory_bytes=peak)
        return peak
