//! `headwater._headwater`: what Python sees of the core.
//!
//! Converts arguments, releases the GIL, calls the core, converts the result. Decisions are the core's; what is more
//! natural in Python (frameworks, pickling, exceptions) is in `python/headwater`.

#![allow(clippy::needless_pass_by_value)] // pyo3 extracts arguments by value

mod batches;
mod behind;
mod copies;
mod dataset;
mod dlpack;
mod ending;
mod error;
mod framework;
mod from_python;
mod functions;
mod interrupt;
mod keys;
mod loader;
mod log;
mod object;
mod ranks;
mod raw_tensor;
mod run;
mod sampler;
mod source;
mod state;
mod stats;
mod tasks;
mod to_python;

use headwater::world::ProcessStamp;
use pyo3::prelude::*;

#[pymodule]
fn _headwater(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // Forks are counted from now on: none can come meanwhile.
    ProcessStamp::current();
    log::install();
    // Before any other handler of ours, so that it is run behind them.
    module.py().import("atexit")?.call_method1("register", (wrap_pyfunction!(ending::end, module)?,))?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<copies::Copies>()?;
    module.add_class::<dataset::Dataset>()?;
    module.add_class::<framework::Framework>()?;
    module.add_class::<keys::Keys>()?;
    module.add_class::<batches::Batches>()?;
    module.add_class::<behind::Behind>()?;
    module.add_class::<loader::Loader>()?;
    module.add_class::<ranks::Ranks>()?;
    module.add_class::<raw_tensor::RawTensor>()?;
    module.add_class::<sampler::Sampler>()?;
    module.add_class::<sampler::Walk>()?;
    module.add_class::<tasks::Task>()?;
    module.add_class::<tasks::Tasks>()?;
    module.add_function(wrap_pyfunction!(functions::register_credentials, module)?)?;
    module.add_function(wrap_pyfunction!(functions::release_credentials, module)?)?;
    module.add_function(wrap_pyfunction!(functions::next_question, module)?)?;
    module.add_function(wrap_pyfunction!(functions::answer_question, module)?)?;
    module.add_function(wrap_pyfunction!(functions::close_questions, module)?)?;
    module.add_function(wrap_pyfunction!(object::load, module)?)?;
    module.add_function(wrap_pyfunction!(object::loads, module)?)?;
    module.add_function(wrap_pyfunction!(object::save, module)?)?;
    module.add_function(wrap_pyfunction!(ranks::find_ranks, module)?)?;
    module.add_function(wrap_pyfunction!(ranks::share_among_workers, module)?)?;
    module.add_function(wrap_pyfunction!(source::describe_source, module)?)?;
    module.add_function(wrap_pyfunction!(run::run, module)?)
}
