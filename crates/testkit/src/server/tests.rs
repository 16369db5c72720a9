//! Each fault on the wire.
