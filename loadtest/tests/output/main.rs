//! What the program tells of a run: each of its outputs, of real runs against servers in this process.

mod files;
mod json;
#[path = "../servers/support.rs"]
#[expect(dead_code, reason = "the faulty servers are for other tests")]
mod support;
mod terminal;
