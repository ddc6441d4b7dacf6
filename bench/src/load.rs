//! Load: closed-loop (each connection asks again as soon as it has its answer) and open-loop (calls begin at a fixed
//! rate whatever the answers do, and latency counts from the intended start, so that a stall shows in every call that
//! it held up).

use std::{
    future::Future,
    sync::{Barrier, OnceLock},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use tokio::task::spawn_blocking;

/// One connection that can make its call again and again.
pub trait Caller: Send + 'static {
    /// Makes one call and reads its answer.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// The same for a thread, which waits for the answer.
pub trait BlockingCaller {
    /// Makes one call and reads its answer.
    fn call(&mut self) -> Result<()>;
}

/// What came of a load.
pub struct Load {
    /// Latencies in nanoseconds.
    pub latency: Histogram<u64>,
    /// From the first call to the last answer.
    pub elapsed: Duration,
}

impl Load {
    fn new() -> Result<Self> {
        Ok(Self { latency: Histogram::new_with_bounds(1_000, 120_000_000_000, 3)?, elapsed: Duration::ZERO })
    }

    /// Number of calls.
    pub fn calls(&self) -> u64 {
        self.latency.len()
    }

    /// Calls per second.
    pub fn rate(&self) -> f64 {
        self.calls() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// A quantile of the latency, in milliseconds.
    pub fn ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// Every caller as fast as it can, for a while. The callers come back for the next round.
pub async fn closed<C: Caller>(callers: Vec<C>, duration: Duration) -> Result<(Load, Vec<C>)> {
    let begun = Instant::now();
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            tokio::spawn(async move {
                let mut load = Load::new()?;
                while begun.elapsed() < duration {
                    let start = Instant::now();
                    caller.call().await?;
                    load.latency.saturating_record(nanoseconds(start.elapsed()));
                }
                anyhow::Ok((load, caller))
            })
        })
        .collect();
    gather(tasks, begun).await
}

/// Calls at a fixed rate, whatever the answers do, by so many threads that take the next call that is due in turn: each
/// waits in the system call, so that no step of the client's own stands between the moment a call is due and the call. Each
/// makes its caller, which makes one call that does not count; the clock starts when all have.
pub async fn open<C: BlockingCaller>(
    threads: u32,
    make: impl Fn(u32) -> Result<C> + Send + Sync + 'static,
    rate: f64,
    duration: Duration,
) -> Result<Load> {
    spawn_blocking(move || steady(threads, &make, rate, duration)).await?
}

fn steady<C: BlockingCaller>(
    threads: u32,
    make: &(impl Fn(u32) -> Result<C> + Sync),
    rate: f64,
    duration: Duration,
) -> Result<Load> {
    let step = Duration::from_secs_f64(1.0 / rate);
    let (ready, started) = (Barrier::new(usize::try_from(threads)?), OnceLock::new());
    let calls = |first: u32| {
        let made = make(first).and_then(|mut caller| caller.call().map(|()| caller));
        // Whether or not it was made, or the others would wait for it.
        ready.wait();
        let (mut caller, start) = (made?, *started.get_or_init(Instant::now));
        let (mut load, mut due) = (Load::new()?, start + step * first);
        while due < start + duration {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            caller.call()?;
            load.latency.saturating_record(nanoseconds(due.elapsed()));
            due += step * threads;
        }
        load.elapsed = start.elapsed();
        anyhow::Ok(load)
    };
    let calls = &calls;
    let loads = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|first| scope.spawn(move || calls(first))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a caller panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let mut all = Load::new()?;
    for load in loads {
        all.latency.add(&load.latency)?;
        all.elapsed = all.elapsed.max(load.elapsed);
    }
    Ok(all)
}

async fn gather<C>(tasks: Vec<tokio::task::JoinHandle<Result<(Load, C)>>>, begun: Instant) -> Result<(Load, Vec<C>)> {
    let mut all = Load::new()?;
    let mut callers = Vec::new();
    for task in tasks {
        let (load, caller) = task.await??;
        all.latency.add(&load.latency)?;
        callers.push(caller);
    }
    all.elapsed = begun.elapsed();
    Ok((all, callers))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper(Duration);

    impl Caller for Sleeper {
        async fn call(&mut self) -> Result<()> {
            tokio::time::sleep(self.0).await;
            Ok(())
        }
    }

    impl BlockingCaller for Sleeper {
        fn call(&mut self) -> Result<()> {
            thread::sleep(self.0);
            Ok(())
        }
    }

    /// One slow caller behind a fixed rate: the calls that wait for it are late, and that is what is counted.
    #[tokio::test]
    async fn open_loop_counts_from_the_intended_start() {
        let make = |_| Ok(Sleeper(Duration::from_millis(20)));
        let load = open(1, make, 100.0, Duration::from_millis(205)).await.unwrap();
        assert_eq!(load.calls(), 21);
        assert!(load.ms(1.0) > 150.0, "the last call was due 220 ms before its answer: {}", load.ms(1.0));
        let load = open(4, make, 100.0, Duration::from_millis(205)).await.unwrap();
        assert_eq!(load.calls(), 21);
        assert!(load.ms(0.5) < 150.0, "four have time enough: {}", load.ms(0.5));
    }

    #[tokio::test]
    async fn who_cannot_begin_holds_nobody_up() {
        let make = |first| if first == 1 { Err(anyhow!("no connection")) } else { Ok(Sleeper(Duration::ZERO)) };
        let error = open(3, make, 100.0, Duration::from_millis(20)).await.err().unwrap();
        assert_eq!(error.to_string(), "no connection");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closed_loop_asks_again_and_again() {
        let (load, callers) = closed(vec![Sleeper(Duration::from_millis(5))], Duration::from_millis(40)).await.unwrap();
        assert!(load.calls() >= 2 && callers.len() == 1 && load.ms(0.0) >= 4.9);
    }
}
