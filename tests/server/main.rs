//! The binary as a child process, over real sockets, and most of it over each engine.
//!
//! One program for all of these files: most tests wait, and here the waits of one file go on beside the work of another.
//! `cargo test --test server echo::` runs a file alone.

#[path = "../common/mod.rs"]
mod common;

mod access;
mod admin;
mod clients;
mod config;
mod counters;
mod deploy;
mod doctor;
mod echo;
mod environment;
mod health;
mod keep_alive;
mod lifecycle;
mod limits;
mod listening;
mod logs;
mod operation;
mod ring_engine;
mod slow;
mod start;
