//! Which process of a run this is.

use headwater::world::{self, Found, Ranks as Core, Told};
use pyo3::prelude::*;

use crate::error::checked;

/// What runs in this process and knows: rank, world size, processes of this machine, its accelerators.
pub(crate) type ToldByPython = Option<(usize, usize, Option<usize>, usize)>;

/// Takes what is given, else what is told, else the environment; memory and cores are shared accordingly from now on.
pub(crate) fn find(rank: Option<usize>, world_size: Option<usize>, told: ToldByPython) -> headwater::Result<Core> {
    let ranks = Core::find(rank, world_size, told.map(to_told))?;
    world::share_among_ranks(ranks.local_world_size);
    Ok(ranks)
}

fn to_told(told: (usize, usize, Option<usize>, usize)) -> Told {
    let (rank, world_size, local_world_size, accelerators) = told;
    Told { rank, world_size, local_world_size, accelerators }
}

/// Which process of a run this is.
#[pyclass(frozen, module = "headwater._headwater")]
pub(crate) struct Ranks(pub(crate) Core);

#[pymethods]
impl Ranks {
    #[getter]
    fn rank(&self) -> usize {
        self.0.rank
    }

    #[getter]
    fn world_size(&self) -> usize {
        self.0.world_size
    }

    /// Processes of the run on this machine.
    #[getter]
    fn local_world_size(&self) -> usize {
        self.0.local_world_size
    }

    /// Where they are from.
    #[getter]
    fn found(&self) -> &'static str {
        match self.0.found {
            Found::Given => "given",
            Found::Told => "told",
            Found::Torchrun => "torchrun",
            Found::Mpi => "MPI",
            Found::Slurm => "Slurm",
            Found::Nowhere => "nowhere",
        }
    }

    /// Refuses when this process has become another one since.
    fn check(&self, py: Python<'_>, told: ToldByPython) -> PyResult<()> {
        checked(py, self.0.check(told.map(to_told)))
    }
}

/// Takes what is given, else what is told, else the environment; memory and cores are shared accordingly from now on.
#[pyfunction]
pub(crate) fn find_ranks(
    py: Python<'_>,
    rank: Option<usize>,
    world_size: Option<usize>,
    told: ToldByPython,
) -> PyResult<Ranks> {
    checked(py, find(rank, world_size, told)).map(Ranks)
}

/// Says that this process is one of so many workers.
#[pyfunction]
pub(crate) fn share_among_workers(count: usize) {
    world::share_among_workers(count);
}
