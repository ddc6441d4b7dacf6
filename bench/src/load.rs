//! Load: closed-loop (each connection asks again as soon as it has its answer) and open-loop (calls begin at a fixed
//! rate whatever the answers do, and latency counts from the intended start, so that a stall shows in every call that
//! it held up).

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use hdrhistogram::Histogram;
use tokio::sync::{Mutex, mpsc};

use crate::wire::BlockingWire;

/// One connection that can make its call again and again.
pub trait Caller: Send + 'static {
    /// Makes one call and reads its answer.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
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

/// Calls at a fixed rate over the callers, each taking the next call that is due.
pub async fn open<C: Caller>(callers: Vec<C>, rate: f64, duration: Duration) -> Result<(Load, Vec<C>)> {
    let (due, dues) = mpsc::unbounded_channel::<Instant>();
    let dues = Arc::new(Mutex::new(dues));
    let begun = Instant::now();
    // A thread of its own: the runtime's timers have a resolution of a millisecond.
    let clock = std::thread::spawn(move || {
        let step = Duration::from_secs_f64(1.0 / rate);
        let mut next = begun + step;
        while next < begun + duration {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            if due.send(next).is_err() {
                break;
            }
            next += step;
        }
    });
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            let dues = dues.clone();
            tokio::spawn(async move {
                let mut load = Load::new()?;
                loop {
                    let due = dues.lock().await.recv().await;
                    let Some(due) = due else { break };
                    caller.call().await?;
                    load.latency.saturating_record(nanoseconds(due.elapsed()));
                }
                anyhow::Ok((load, caller))
            })
        })
        .collect();
    let done = gather(tasks, begun).await;
    let _ = tokio::task::spawn_blocking(move || clock.join()).await;
    done
}

/// Calls at a fixed rate by threads that take the next call that is due in turn: as [`open`], without a step of the
/// client's own between the call's time and the call. Each begins with one that does not count.
pub fn steady(callers: Vec<BlockingWire>, rate: f64, duration: Duration) -> Result<Load> {
    let threads = u32::try_from(callers.len())?;
    let step = Duration::from_secs_f64(1.0 / rate);
    let start = Instant::now() + Duration::from_millis(100);
    let threads: Vec<_> = (0..threads)
        .zip(callers)
        .map(|(first, mut caller)| {
            std::thread::spawn(move || {
                caller.call()?;
                let (mut load, mut due) = (Load::new()?, start + step * first);
                while due < start + duration {
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    caller.call()?;
                    load.latency.saturating_record(nanoseconds(due.elapsed()));
                    due += step * threads;
                }
                anyhow::Ok(load)
            })
        })
        .collect();
    let mut all = Load::new()?;
    for thread in threads {
        let load = thread.join().map_err(|_| anyhow!("a caller panicked"))??;
        all.latency.add(&load.latency)?;
    }
    all.elapsed = start.elapsed();
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
    use std::io::{Read, Write};

    use super::*;

    struct Sleeper(Duration);

    impl Caller for Sleeper {
        async fn call(&mut self) -> Result<()> {
            tokio::time::sleep(self.0).await;
            Ok(())
        }
    }

    /// One slow caller behind a fixed rate: the calls that wait for it are late, and that is what is counted.
    #[tokio::test(flavor = "multi_thread")]
    async fn open_loop_counts_from_the_intended_start() {
        let callers = vec![Sleeper(Duration::from_millis(20))];
        let (load, _) = open(callers, 100.0, Duration::from_millis(205)).await.unwrap();
        assert_eq!(load.calls(), 20);
        assert!(load.ms(1.0) > 150.0, "the last call was due 200 ms before its answer: {}", load.ms(1.0));
        let (load, callers) = closed(vec![Sleeper(Duration::from_millis(5))], Duration::from_millis(40)).await.unwrap();
        assert!(load.calls() >= 2 && callers.len() == 1 && load.ms(0.0) >= 4.9);
    }

    /// A server that takes 20 ms for each answer, and a thread that is to ask every 10 ms.
    #[test]
    fn threads_count_from_the_intended_start() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while matches!(stream.read(&mut [0]), Ok(1)) {
                std::thread::sleep(Duration::from_millis(20));
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        let caller = BlockingWire::connect(&url, Arc::from(*b"?")).unwrap();
        let load = steady(vec![caller], 100.0, Duration::from_millis(205)).unwrap();
        assert_eq!(load.calls(), 21);
        assert!(load.ms(1.0) > 150.0, "the last call was due 220 ms before its answer: {}", load.ms(1.0));
    }
}
