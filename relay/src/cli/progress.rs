//! What a person sees while a command works through many things: a bar on a terminal, and nothing that a program would have
//! to read around elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BAR: &str = "{bar:30} {pos} of {len}  {per_sec}  {eta} left  {msg}";

/// Drawn on standard error; gone when it is dropped.
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// `quiet`: somebody asked for a document.
    pub(super) fn new(total: usize, quiet: bool) -> Self {
        let shown = !quiet && total > 0 && std::io::stderr().is_terminal();
        Self(shown.then(|| Self::bar(total, ProgressDrawTarget::stderr())))
    }

    fn bar(total: usize, target: ProgressDrawTarget) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total as u64), target);
        // The template is constant; should it not parse, the default one shows the numbers too.
        let style = ProgressStyle::with_template(BAR);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    }

    pub(super) fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// So many are done, of which some failed again.
    pub(super) fn at(&self, done: usize, failed: usize) {
        if let Some(bar) = &self.0 {
            bar.set_position(done as u64);
            if failed > 0 {
                bar.set_message(format!("{failed} failed again"));
            }
        }
    }

    /// A line on standard output, beside the bar.
    pub(super) fn line(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| println!("{text}")),
            None => println!("{text}"),
        }
    }

    /// The same on standard error.
    pub(super) fn warn(&self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_tells_how_far_it_is_and_what_failed() {
        let progress = Progress(Some(Progress::bar(40, ProgressDrawTarget::hidden())));
        progress.at(10, 2);
        let bar = progress.0.as_ref().unwrap();
        assert_eq!(
            (bar.position(), bar.length(), bar.message()),
            (10, Some(40), "2 failed again".to_owned())
        );
        assert!(ProgressStyle::with_template(BAR).is_ok());
        assert!(!Progress::new(40, true).is_shown() && !Progress::new(0, false).is_shown());
    }
}
