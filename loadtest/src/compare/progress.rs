//! How far it is: a bar where a person looks on, lines where not.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressStyle};

use super::cell::Cell;
use super::measure::Plan;

/// Tells on standard error how far the measuring is.
#[derive(Debug)]
pub(crate) struct Progress {
    rounds: u32,
    telling: Telling,
    /// What was passed on.
    passed_on: RefCell<BTreeSet<String>>,
}

#[derive(Debug)]
enum Telling {
    Nothing,
    /// One line a round and cell: the latest.
    Lines(RefCell<String>),
    Bar(ProgressBar),
}

impl Progress {
    /// A bar on a terminal, lines elsewhere, and nothing where quiet is wanted.
    pub(crate) fn new(plan: &Plan, quiet: bool) -> Self {
        let telling = if quiet {
            Telling::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(plan.visits());
            bar.set_style(ProgressStyle::with_template(TEMPLATE).expect("well formed: there is a test"));
            Telling::Bar(bar)
        } else {
            Telling::Lines(RefCell::default())
        };
        Self { rounds: plan.rounds, telling, passed_on: RefCell::default() }
    }

    /// A server is about to be started.
    pub(super) fn starting(&self, name: &str) {
        match &self.telling {
            Telling::Bar(bar) => bar.set_message(format!("starting {name}")),
            Telling::Lines(_) | Telling::Nothing => {}
        }
    }

    /// A visit is about to begin.
    pub(super) fn visiting(&self, round: u32, cell: &Cell, name: &str) {
        let line = format!("round {round} of {}, {cell}", self.rounds);
        match &self.telling {
            Telling::Bar(bar) => {
                if bar.message().starts_with("round ") {
                    bar.inc(1);
                }
                bar.set_message(format!("{line}, {name}"));
            }
            Telling::Lines(latest) => {
                if latest.replace(line.clone()) != line {
                    say!("{line}");
                }
            }
            Telling::Nothing => {}
        }
    }

    /// Time has passed.
    pub(super) fn tick(&self) {
        if let Telling::Bar(bar) = &self.telling {
            bar.tick();
        }
    }

    /// Passes on what the load generator complains of, each line once: most come at every visit.
    pub(super) fn pass_on(&self, complaints: &str) {
        for line in complaints.lines().filter(|line| !line.trim().is_empty()) {
            if self.passed_on.borrow_mut().insert(line.to_owned()) {
                match &self.telling {
                    Telling::Bar(bar) => bar.suspend(|| say!("{line}")),
                    Telling::Lines(_) | Telling::Nothing => say!("{line}"),
                }
            }
        }
    }

    /// All visits are over.
    pub(super) fn finish(&self) {
        if let Telling::Bar(bar) = &self.telling {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // However the measuring ends, its reason must not be written into the bar.
        self.finish();
    }
}

const TEMPLATE: &str = "{elapsed:>4} {bar:30} {pos}/{len}, {eta} to go  {msg}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_well_formed() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
