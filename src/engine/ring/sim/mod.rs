//! A simulated kernel below the ring, on which the worker, its connections and their sessions run as they are.
//!
//! `world` has the sockets, the time and chance, all from one seed; `kernel` is what stands in for io_uring, `memory`
//! knows whose the memory is that it may touch; `client` speaks WebSocket from the other side; `runs` puts a run
//! together and says what must hold; `found` keeps what was found, and `faults` plants faults to find; `scripts`, on a
//! `stage`, compares the kernel with the real one. docs/SIMULATION.md tells how to use it.

mod client;
mod faults;
mod found;
mod kernel;
mod memory;
mod plan;
mod runs;
mod scripts;
mod stage;
mod world;
