//! The `headwater` command.
