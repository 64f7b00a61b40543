//! What a run tells: to people, to programs and to plotters.

pub(crate) mod chart;
pub(crate) mod condition;
pub(crate) mod figures;
pub(crate) mod file;
pub(crate) mod hdr;
pub(crate) mod html;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod series;
pub(crate) mod text;
