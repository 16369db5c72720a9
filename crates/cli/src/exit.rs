//! Exit codes.

use headwater::ErrorKind;

/// Done.
pub const OK: u8 = 0;
/// Failed, in a way that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line or configuration is wrong.
pub const USAGE: u8 = 2;
/// An object, directory or bucket does not exist.
pub const NOT_FOUND: u8 = 3;
/// Credentials are missing or do not suffice.
pub const DENIED: u8 = 4;
/// An object is damaged, or holds something that is not supported.
pub const BAD_DATA: u8 = 5;
/// A remote did not answer, or not in time: trying again may help.
pub const UNAVAILABLE: u8 = 6;
/// Whoever read the output stopped reading.
pub const BROKEN_PIPE: u8 = 141;

/// The table, for the documentation.
pub const TABLE: &[(u8, &str)] = &[
    (OK, "done"),
    (FAILURE, "failed"),
    (USAGE, "the command line or a configuration is wrong"),
    (NOT_FOUND, "an object, directory or bucket does not exist"),
    (DENIED, "credentials are missing or do not suffice"),
    (BAD_DATA, "an object is damaged, or holds something that is not supported"),
    (UNAVAILABLE, "a remote did not answer, or not in time; trying again may help"),
    (130, "ended by Ctrl-C"),
    (BROKEN_PIPE, "whoever read the output stopped reading"),
];

/// The code for a kind of error.
pub fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::Denied => DENIED,
        ErrorKind::Invalid | ErrorKind::OutOfRange => USAGE,
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::Changed => BAD_DATA,
        ErrorKind::Timeout | ErrorKind::Unavailable => UNAVAILABLE,
        _ => FAILURE,
    }
}
