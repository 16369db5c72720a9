//! The fault server as clients find it: each protocol, and each fault on the wire.

mod client;
mod faults;
mod life;
mod protocols;
