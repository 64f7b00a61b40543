//! What a run tells: to people, to programs and to plotters.

pub(crate) mod report;
