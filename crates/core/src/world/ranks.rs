//! Which process of a run this is, and how many share its machine.
//!
//! Asked in this order: what is given; what runs in this process and knows it (`torch.distributed`, Ray Train; Python tells); what
//! launchers leave in the environment, the innermost first; else the process is alone. `mpirun` comes before Slurm: it starts
//! its processes from steps of Slurm, whose variables are then the starter's. So are those that a worker of Ray inherits.

#![allow(clippy::disallowed_methods)] // this is where the environment is read

use std::env;

use crate::error::{Error, ErrorKind, Result};

/// A launcher that says in three variables which process it started.
struct Launcher {
    found: Found,
    rank: &'static str,
    world_size: &'static str,
    local_world_size: &'static str,
}

/// Whoever adds one writes a line.
const LAUNCHERS: [Launcher; 3] = [
    Launcher::new(Found::Torchrun, "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    Launcher::new(Found::Mpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    Launcher::new(Found::Mpi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
];

/// From here on numbers of steps are Slurm's own: the shell of `salloc`, a batch script.
const FIRST_RESERVED_STEP: u32 = 0xffff_fff0;

/// Where rank and world size are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Arguments or a file.
    Given,
    /// What runs in this process.
    Told,
    /// `RANK` and `WORLD_SIZE`, which torchrun, Accelerate, Lightning and Ray Train set.
    Torchrun,
    /// `mpirun`.
    Mpi,
    /// A step that `srun` started.
    Slurm,
    /// Nowhere: the process is alone.
    Nowhere,
}

/// What runs in this process and knows its rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Number of this process.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// How many of them are on this machine, if that is known.
    pub local_world_size: Option<usize>,
    /// Accelerators of this machine: as many processes of a run are on it, where nothing says how many; 0 when there are none.
    pub accelerators: usize,
}

/// Which process of a run this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// Number of this process.
    pub rank: usize,
    /// How many there are.
    pub world_size: usize,
    /// How many of the run's processes share this machine, whatever rank was given: at least 1.
    pub local_world_size: usize,
    /// Where rank and world size are from.
    pub found: Found,
}

impl Ranks {
    /// Takes what is given, else what is told, else what launchers left in the environment.
    ///
    /// # Errors
    /// `Invalid` when one of two numbers is missing or they contradict each other, naming them.
    pub fn find(rank: Option<usize>, world_size: Option<usize>, told: Option<Told>) -> Result<Self> {
        Self::find_in(rank, world_size, told, &variable)
    }

    fn find_in(
        rank: Option<usize>,
        world_size: Option<usize>,
        told: Option<Told>,
        variable: Variable<'_>,
    ) -> Result<Self> {
        let local_world_size = local_world_size(told, variable)?;
        let made = |rank, world_size, found| Self { rank, world_size, local_world_size, found };
        match (rank, world_size) {
            (Some(rank), Some(world_size)) if rank < world_size => Ok(made(rank, world_size, Found::Given)),
            (Some(rank), Some(world_size)) => {
                Err(refused("rank", rank, format_args!("it must be below world_size, which is {world_size}")))
            }
            (None, None) => {
                let told = told.map(|told| (told.rank, told.world_size, Found::Told));
                let found = told.map_or_else(|| from_environment(variable), |told| Ok(Some(told)))?;
                let (rank, world_size, found) = found.unwrap_or((0, 1, Found::Nowhere));
                Ok(made(rank, world_size, found))
            }
            _ => Err(Error::new(ErrorKind::Invalid, "load", "a part of each epoch")
                .because("give both rank and world_size, or neither")),
        }
    }

    /// Makes sure that this process still is the one that was found: a loader that was made before its trainer began the job would read
    /// every sample on every rank.
    ///
    /// # Errors
    /// `Invalid` when it has become another one since.
    pub fn check(&self, told: Option<Told>) -> Result<()> {
        self.check_in(told, &variable)
    }

    fn check_in(&self, told: Option<Told>, variable: Variable<'_>) -> Result<()> {
        if self.found == Found::Given {
            return Ok(());
        }
        let now = Self::find_in(None, None, told, variable)?;
        if now.world_size == 1 || (now.rank, now.world_size) == (self.rank, self.world_size) {
            return Ok(());
        }
        let of = |ranks: &Self| format!("rank {} of {}", ranks.rank, ranks.world_size);
        Err(Error::new(ErrorKind::Invalid, "load", "a part of each epoch").because(format_args!(
            "the loader or sampler was made as {}, and this is {}; make it once torch.distributed is up (with Lightning in \
             `train_dataloader`), or give rank= and world_size=",
            of(self),
            of(&now)
        )))
    }

    /// Number of this process, and how many there are, among those that read different samples: `replication` consecutive
    /// ones read the same.
    ///
    /// # Errors
    /// `Invalid` when the world size is no multiple of it.
    pub fn apart(&self, replication: usize) -> Result<(usize, usize)> {
        if replication == 0 || !self.world_size.is_multiple_of(replication) {
            let reason = format_args!("the world size, which is {}, must be a multiple of it", self.world_size);
            return Err(refused("replication", replication, reason));
        }
        Ok((self.rank / replication, self.world_size / replication))
    }
}

/// Reads a variable of the environment; what is empty is not there.
type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

impl Launcher {
    const fn new(found: Found, rank: &'static str, world_size: &'static str, local_world_size: &'static str) -> Self {
        Self { found, rank, world_size, local_world_size }
    }

    fn is_passed_over(&self, variable: Variable<'_>) -> bool {
        self.found == Found::Mpi && is_worker_of_ray(variable)
    }
}

fn from_environment(variable: Variable<'_>) -> Result<Option<(usize, usize, Found)>> {
    for launcher in LAUNCHERS.iter().filter(|launcher| !launcher.is_passed_over(variable)) {
        if let Some((rank, world_size)) = pair(launcher.rank, launcher.world_size, variable)? {
            return Ok(Some((rank, world_size, launcher.found)));
        }
    }
    if !is_in_step(variable) {
        return Ok(None);
    }
    let tasks = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"].into_iter().find(|name| variable(name).is_some());
    let found = pair("SLURM_PROCID", tasks.unwrap_or("SLURM_STEP_NUM_TASKS"), variable)?;
    Ok(found.map(|(rank, world_size)| (rank, world_size, Found::Slurm)))
}

/// Rank and world size in two variables, of which both are there or none.
fn pair(rank: &str, world_size: &str, variable: Variable<'_>) -> Result<Option<(usize, usize)>> {
    let (there, missing) = match (number(rank, variable)?, number(world_size, variable)?) {
        (None, None) => return Ok(None),
        (Some(of), Some(all)) if of < all => return Ok(Some((of, all))),
        (Some(of), Some(all)) => {
            return Err(refused(rank, of, format_args!("it must be below {world_size}, which is {all}")));
        }
        (Some(_), None) => (rank, world_size),
        (None, Some(_)) => (world_size, rank),
    };
    Err(Error::new(ErrorKind::Invalid, "use", there)
        .because(format_args!("it is set and {missing} is not: set both or none")))
}

/// How many processes of the run this machine has.
fn local_world_size(told: Option<Told>, variable: Variable<'_>) -> Result<usize> {
    if let Some(told) = told.and_then(|told| told.local_world_size) {
        return Ok(told.max(1));
    }
    for launcher in LAUNCHERS.iter().filter(|launcher| !launcher.is_passed_over(variable)) {
        let name = launcher.local_world_size;
        if let Some(count) = number(name, variable)? {
            return if count == 0 { Err(refused(name, 0, "it must be at least 1")) } else { Ok(count) };
        }
    }
    if let Some(count) = tasks_here(variable) {
        return Ok(count);
    }
    Ok(told.map_or(1, |told| told.accelerators.min(told.world_size).max(1)))
}

/// Whether `srun` started this process: only then are numbers of tasks about it. A batch script and the shell of `salloc` have a
/// rank of 0 and the number of tasks that the job may start, being alone.
fn is_in_step(variable: Variable<'_>) -> bool {
    let step = variable("SLURM_STEP_ID").or_else(|| variable("SLURM_STEPID")).and_then(|step| step.trim().parse().ok());
    step.is_some_and(|step: u32| step < FIRST_RESERVED_STEP) && !is_worker_of_ray(variable)
}

/// Workers of Ray have the environment of whatever started Ray on their machine.
fn is_worker_of_ray(variable: Variable<'_>) -> bool {
    variable("RAY_RAYLET_PID").is_some()
}

/// Tasks that the step has on this machine: one of a list like `2(x3),1`.
fn tasks_here(variable: Variable<'_>) -> Option<usize> {
    if !is_in_step(variable) {
        return None;
    }
    let list = variable("SLURM_STEP_TASKS_PER_NODE")
        .or_else(|| variable("SLURM_TASKS_PER_NODE"))
        .or_else(|| variable("SLURM_NTASKS_PER_NODE"))?;
    let node: usize = variable("SLURM_NODEID").and_then(|node| node.trim().parse().ok()).unwrap_or(0);
    let mut before: usize = 0;
    for part in list.trim().split(',') {
        let (tasks, nodes) = part.split_once("(x").unwrap_or((part, "1)"));
        let nodes: usize = nodes.strip_suffix(')')?.parse().ok()?;
        before = before.saturating_add(nodes);
        if node < before || !list.contains([',', '(']) {
            return tasks.parse().ok().filter(|&tasks| tasks > 0);
        }
    }
    None
}

fn number(name: &str, variable: Variable<'_>) -> Result<Option<usize>> {
    let Some(text) = variable(name) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| refused(name, &text, "it must be a number, counted from 0"))
}

fn refused(name: &str, value: impl std::fmt::Display, reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Invalid, "use", format_args!("{name} = {value}")).because(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Told = Told { rank: 2, world_size: 4, local_world_size: None, accelerators: 0 };
    const TORCHRUN: &str = "RANK=1 WORLD_SIZE=8 LOCAL_WORLD_SIZE=4";
    const STEP: &str = "SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_NODEID=2 SLURM_STEP_NUM_TASKS=7 SLURM_NTASKS=16 \
                        SLURM_STEP_TASKS_PER_NODE=2(x3),1 SLURM_TASKS_PER_NODE=8(x2)";
    const MPIRUN: &str = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=6 OMPI_COMM_WORLD_LOCAL_SIZE=3";

    #[test]
    fn a_process_that_became_another_rank_is_told_from_one_that_did_not() {
        let alone = ranks(None, None, "").expect("alone");
        let nowhere: Variable<'_> = &|_: &str| None;
        alone.check_in(None, nowhere).expect("the same");
        let message = alone.check_in(Some(TOLD), nowhere).expect_err("another").to_string();
        assert!(message.contains("was made as rank 0 of 1, and this is rank 2 of 4"), "{message}");
        ranks(None, Some(TOLD), "").expect("told").check_in(None, nowhere).expect("the job has ended");
        ranks(Some((0, 1)), None, "").expect("given").check_in(Some(TOLD), nowhere).expect("what is given holds");
    }

    fn ranks(given: Option<(usize, usize)>, told: Option<Told>, environment: &str) -> Result<Ranks> {
        let variable = |name: &str| {
            let mut set = environment.split_whitespace().map(|pair| pair.split_once('=').expect("a pair"));
            set.find_map(|(other, value)| (other == name && !value.is_empty()).then(|| value.to_owned()))
        };
        Ranks::find_in(given.map(|it| it.0), given.map(|it| it.1), told, &variable)
    }

    /// Rank, world size, and how many are here.
    fn found(environment: &str) -> (usize, usize, usize, Found) {
        let Ranks { rank, world_size, local_world_size, found } = ranks(None, None, environment).expect("found");
        (rank, world_size, local_world_size, found)
    }

    fn message(environment: &str) -> String {
        ranks(None, None, environment).expect_err("refused").to_string()
    }

    #[test]
    fn what_is_given_comes_before_what_is_told_and_that_before_the_environment() {
        let all = [TORCHRUN, MPIRUN, STEP].join(" ");
        let given = ranks(Some((0, 1)), Some(TOLD), &all).expect("given");
        assert_eq!((given.rank, given.world_size, given.local_world_size, given.found), (0, 1, 4, Found::Given));
        let told = ranks(None, Some(TOLD), &all).expect("told");
        assert_eq!((told.rank, told.world_size, told.local_world_size, told.found), (2, 4, 4, Found::Told));
        assert_eq!(found(&all), (1, 8, 4, Found::Torchrun));
        assert_eq!(found(&[MPIRUN, STEP].join(" ")), (3, 6, 3, Found::Mpi));
        assert_eq!(found(STEP), (5, 7, 2, Found::Slurm));
        assert_eq!(found(""), (0, 1, 1, Found::Nowhere));
    }

    #[test]
    fn what_launchers_set_is_understood() {
        assert_eq!(found("RANK=0 WORLD_SIZE=2"), (0, 2, 1, Found::Torchrun));
        assert_eq!(found("RANK= WORLD_SIZE="), (0, 1, 1, Found::Nowhere));
        assert_eq!(found("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALNRANKS=2"), (1, 2, 2, Found::Mpi));
        // One process per node that starts others is no rank of theirs.
        assert_eq!(found(&[STEP, "RANK=9 WORLD_SIZE=56"].join(" ")), (9, 56, 2, Found::Torchrun));
    }

    #[test]
    fn only_what_srun_started_is_one_of_many() {
        let alone = (0, 1, 1, Found::Nowhere);
        assert_eq!(
            found("SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_NTASKS=16 SLURM_NTASKS_PER_NODE=8"),
            alone,
            "a batch script"
        );
        for reserved in ["4294967290", "4294967291", "4294967292"] {
            let shell = format!("SLURM_STEP_ID={reserved} SLURM_PROCID=0 SLURM_NTASKS=16");
            assert_eq!(found(&shell), alone, "{shell}");
        }
        assert_eq!(
            found("SLURM_STEP_ID=3 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 SLURM_NTASKS=16"),
            (0, 1, 1, Found::Slurm)
        );
        assert_eq!(
            found("SLURM_STEPID=3 SLURM_PROCID=1 SLURM_NTASKS=4 SLURM_NTASKS_PER_NODE=4"),
            (1, 4, 4, Found::Slurm)
        );
    }

    #[test]
    fn a_worker_of_ray_is_not_what_started_ray() {
        let ray = "RAY_RAYLET_PID=77";
        assert_eq!(found(&[ray, STEP, MPIRUN].join(" ")), (0, 1, 1, Found::Nowhere));
        assert_eq!(found(&[ray, STEP, TORCHRUN].join(" ")), (1, 8, 4, Found::Torchrun));
    }

    #[test]
    fn tasks_of_this_node_are_read_from_the_list() {
        let of = |node: usize, list: &str| {
            let step = "SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=9";
            found(&format!("{step} SLURM_NODEID={node} SLURM_STEP_TASKS_PER_NODE={list}")).2
        };
        assert_eq!([0, 1, 2, 3].map(|node| of(node, "2(x3),1")), [2, 2, 2, 1]);
        assert_eq!([0, 1, 2].map(|node| of(node, "1,4,3")), [1, 4, 3]);
        assert_eq!(of(5, "8"), 8, "the same on every node");
        for damaged in ["2(x", "x", ",", "0", "2(x99999999999999999999)", "1,"] {
            assert_eq!(of(7, damaged), 1, "{damaged}");
        }
    }

    #[test]
    fn a_machine_whose_processes_nobody_counted_has_one_for_each_accelerator() {
        let local = |world_size, accelerators| {
            let told = Told { rank: 0, world_size, local_world_size: None, accelerators };
            ranks(None, Some(told), "").expect("told").local_world_size
        };
        assert_eq!((local(16, 8), local(2, 8), local(16, 0)), (8, 2, 1));
        let told = Told { local_world_size: Some(3), ..TOLD };
        assert_eq!(ranks(None, Some(told), TORCHRUN).expect("told").local_world_size, 3);
    }

    #[test]
    fn half_a_setting_and_contradictions_are_refused_by_name() {
        let half = message("RANK=1");
        assert_eq!(half, "cannot use `RANK`: it is set and WORLD_SIZE is not: set both or none");
        assert!(message("WORLD_SIZE=2").contains("`WORLD_SIZE`: it is set and RANK is not"));
        assert!(message("SLURM_STEP_ID=0 SLURM_PROCID=1").contains("SLURM_STEP_NUM_TASKS is not"));
        assert!(message("RANK=2 WORLD_SIZE=2").contains("`RANK = 2`: it must be below WORLD_SIZE, which is 2"));
        assert!(message("RANK=one WORLD_SIZE=2").contains("`RANK = one`: it must be a number"));
        assert!(message("RANK=0 WORLD_SIZE=2 LOCAL_WORLD_SIZE=0").contains("LOCAL_WORLD_SIZE = 0"));
        assert!(message("PMI_SIZE=2").contains("PMI_RANK is not"));
        // What is given needs none of it.
        ranks(Some((0, 2)), None, "RANK=1").expect("given");
        for (rank, world_size) in [(Some(0), None), (None, Some(2))] {
            let error = Ranks::find_in(rank, world_size, None, &|_| None).expect_err("half").to_string();
            assert!(error.contains("give both rank and world_size, or neither"), "{error}");
        }
        let error = ranks(Some((2, 2)), None, "").expect_err("refused").to_string();
        assert_eq!(error, "cannot use `rank = 2`: it must be below world_size, which is 2");
    }

    #[test]
    fn ranks_that_read_the_same_are_consecutive() {
        let apart = |rank, replication| ranks(Some((rank, 12)), None, "").expect("given").apart(replication);
        assert_eq!(
            [0, 1, 2, 3, 4, 11].map(|rank| apart(rank, 3).expect("divides")),
            [(0, 4), (0, 4), (0, 4), (1, 4), (1, 4), (3, 4)]
        );
        assert_eq!(apart(7, 1).expect("divides"), (7, 12));
        assert_eq!(apart(7, 12).expect("divides"), (0, 1));
        for replication in [0, 5, 24] {
            let error = apart(0, replication).expect_err("refused").to_string();
            assert!(error.contains("the world size, which is 12, must be a multiple of it"), "{error}");
        }
    }
}
