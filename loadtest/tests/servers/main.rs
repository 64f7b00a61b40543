//! The program is run against servers in this process: right ones, and one for each fault it has to find.

mod answers;
mod counters;
mod files;
mod interrupted;
mod pace;
mod reconnect;
mod right;
mod support;
mod system;
mod traffic;
mod wrong;
