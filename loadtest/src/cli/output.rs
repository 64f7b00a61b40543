//! What is told of it.

use std::path::PathBuf;

use super::pace::RATES;
use crate::output::condition::Condition;
use crate::output::file::OutputFile;
use crate::output::report::Report;
use crate::output::{hdr, html};
use crate::run::{Failure, Plan};

/// The options that say what is told, and where.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// Print one JSON object instead of the report; loadtest/report.schema.json describes it
    #[arg(long)]
    pub(crate) json: bool,

    /// Show no progress; there is none either when standard error is no terminal
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Write an HdrHistogram interval log: a histogram a second, of nanoseconds, with maxima in milliseconds
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Write the report as one page with charts, which needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Fail when this is so, for example p99>5ms, max>=1s, rate<10000 or server_cpu>5us; may be given several times
    #[arg(long, value_name = "COND")]
    pub(crate) fail_if: Vec<Condition>,

    /// Search for the highest rate at which this is so, for example p99<5ms, in runs of --duration each
    #[arg(long, value_name = "COND", group = RATES, conflicts_with_all = ["spin", "idle", "depth"])]
    pub(crate) find_max: Option<Condition>,
}

/// The files that the report goes to.
#[derive(Debug)]
pub(crate) struct Files {
    hdr: Option<OutputFile>,
    html: Option<OutputFile>,
}

impl OutputArgs {
    /// Checks what the run will be asked, and opens its files, before it begins.
    ///
    /// # Errors
    ///
    /// A file cannot be written, or a condition is about what the run will not tell.
    pub(crate) fn prepare(&self, plan: &Plan) -> Result<Files, Failure> {
        for condition in self.fail_if.iter().chain(&self.find_max) {
            let missing = if condition.needs_server() && plan.server.is_none() {
                "--server-pid"
            } else if condition.needs_rate() && plan.pace.rate().is_none() && self.find_max.is_none() {
                "--rate"
            } else {
                continue;
            };
            return Err(Failure::Usage(format!("{condition} is not known without {missing}")));
        }
        if let Some(condition) = self.find_max.as_ref().filter(|condition| condition.begins_with_load()) {
            return Err(Failure::Usage(format!(
                "--find-max {condition} is so only once the load is too much; what has to be so is meant, as in --find-max {}",
                condition.reversed()
            )));
        }
        let open = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::open).transpose();
        Ok(Files { hdr: open(&self.hdr)?, html: open(&self.html)? })
    }
}

impl Files {
    /// Writes the report to each of them, whatever becomes of the others.
    ///
    /// # Errors
    ///
    /// One cannot be written; the first of them.
    pub(crate) fn write(self, report: &Report) -> Result<(), Failure> {
        let hdr = self.hdr.map_or(Ok(()), |file| file.write(hdr::of_report(report).as_bytes()));
        let html = self.html.map_or(Ok(()), |file| file.write(html::of_report(report).as_bytes()));
        hdr.and(html)
    }
}
