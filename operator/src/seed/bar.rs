//! How far the loading is, and about how much longer it takes, for people.

use std::time::Duration;

use super::Progress;

/// Rows of each table for one order, and what a row costs against others: tables take about the time that their rows take.
/// Customers are a quarter of the orders, lines 2.45 times as many.
const SHARES: [(&str, f64); 3] = [("customers", 0.12), ("orders", 0.30), ("order_items", 0.58)];
/// Characters of the bar.
const WIDTH: usize = 30;

/// Draws the progress of one run.
#[derive(Debug, Default)]
pub struct Bar {
    drawn: u32,
}

impl Bar {
    /// The line for this progress after this time; `None` where it would look like the last one.
    pub fn line(&mut self, progress: Progress, elapsed: Duration) -> Option<String> {
        let done = done(progress)?;
        let percent = (done * 100.0) as u32;
        if percent <= self.drawn && percent < 100 {
            return None;
        }
        self.drawn = percent;
        let filled = ((done * WIDTH as f64) as usize).min(WIDTH);
        let (full, empty) = ("#".repeat(filled), "-".repeat(WIDTH - filled));
        // Early on the start-up is most of what was measured.
        let left = if done > 0.02 { left(done, elapsed) } else { String::new() };
        Some(format!(
            "[{full}{empty}] {percent:>3} %  {} {} of {}{left}",
            progress.table, progress.rows, progress.total
        ))
    }
}

/// Which part of all is done, from 0 to 1.
fn done(progress: Progress) -> Option<f64> {
    let at = SHARES.iter().position(|(table, _)| *table == progress.table)?;
    let before: f64 = SHARES[..at].iter().map(|(_, share)| share).sum();
    let part = progress.rows as f64 / progress.total.max(1) as f64;
    Some((before + SHARES[at].1 * part.min(1.0)).min(1.0))
}

fn left(done: f64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64() * (1.0 - done) / done;
    if done >= 1.0 { String::new() } else { format!(", about {seconds:.0} s left") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(table: &'static str, rows: u64, total: u64) -> Progress {
        Progress { table, rows, total }
    }

    #[test]
    fn the_bar_grows_and_estimates() {
        let mut bar = Bar::default();
        let line = bar.line(progress("customers", 1_000, 50_000), Duration::from_millis(50));
        assert_eq!(line, None, "nothing to draw yet");
        let line = bar.line(progress("customers", 50_000, 50_000), Duration::from_secs(3)).unwrap();
        assert_eq!(line, "[###---------------------------]  12 %  customers 50000 of 50000, about 22 s left");
        assert_eq!(bar.line(progress("orders", 1, 200_000), Duration::from_secs(3)), None, "looks the same");
        let line = bar.line(progress("orders", 100_000, 200_000), Duration::from_secs(9)).unwrap();
        assert!(line.contains(" 27 %") && line.ends_with("about 24 s left"), "{line}");
        let line = bar.line(progress("order_items", 490_000, 490_000), Duration::from_secs(30)).unwrap();
        assert_eq!(line, "[##############################] 100 %  order_items 490000 of 490000");
        assert_eq!(bar.line(progress("elsewhere", 1, 1), Duration::from_secs(1)), None);
    }
}
