//! Which process of a run this is.

use headwater::config::{Found, Ranks, Told, share_memory_among_ranks, share_memory_among_workers};
use pyo3::prelude::*;

use crate::error::checked;

/// What runs in this process and knows: rank, world size, processes of this machine, its accelerators.
pub(crate) type ToldByPython = Option<(usize, usize, Option<usize>, usize)>;

/// Takes what is given, else what is told, else the environment; memory is shared accordingly from now on.
pub(crate) fn find(rank: Option<usize>, world_size: Option<usize>, told: ToldByPython) -> headwater::Result<Ranks> {
    let told = told.map(|(rank, world_size, local_world_size, accelerators)| Told {
        rank,
        world_size,
        local_world_size,
        accelerators,
    });
    let ranks = Ranks::find(rank, world_size, told)?;
    share_memory_among_ranks(ranks.local_world_size);
    Ok(ranks)
}

/// How Python calls the place where rank and world size are from.
pub(crate) fn word(found: Found) -> &'static str {
    match found {
        Found::Given => "given",
        Found::Told => "told",
        Found::Torchrun => "torchrun",
        Found::Mpi => "MPI",
        Found::Slurm => "Slurm",
        Found::Nowhere => "nowhere",
    }
}

/// Rank, world size, processes of this machine, and where they are from.
#[pyfunction]
pub(crate) fn find_ranks(
    py: Python<'_>,
    rank: Option<usize>,
    world_size: Option<usize>,
    told: ToldByPython,
) -> PyResult<(usize, usize, usize, &'static str)> {
    let ranks = checked(py, find(rank, world_size, told))?;
    Ok((ranks.rank, ranks.world_size, ranks.local_world_size, word(ranks.found)))
}

/// Says that this process is one of so many workers.
#[pyfunction]
pub(crate) fn share_among_workers(count: usize) {
    share_memory_among_workers(count);
}
