//! The program is run against servers in this process: right ones, and one for each fault it has to find.

mod pace;
mod right;
mod support;
mod traffic;
mod wrong;
