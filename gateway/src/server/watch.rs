//! Detects clients that hold a connection without using it: silent ones, ones that do not read, and ones that reset
//! requests too fast.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// The most requests that a client may give up beyond the number it lets finish. Each may cost a database connection.
const GIVEN_UP: usize = 64;
/// The most answers whose state is kept after their end.
const FORGOTTEN: usize = 16;

/// The state of one connection.
pub(super) struct Watch {
    timeout: Duration,
    idle: Duration,
    start: Instant,
    begun: Notify,
    /// Whether the client uses HTTP/2, where bytes may arrive without a request.
    http2: AtomicBool,
    /// When the next request began to arrive, in milliseconds; 0 if none is arriving.
    heard: AtomicU64,
    /// Since when the client has taken no bytes, in milliseconds; 0 if it takes them.
    blocked: AtomicU64,
    under_way: AtomicUsize,
    /// When the last request ended.
    last: AtomicU64,
    given_up: AtomicUsize,
    finished: AtomicUsize,
    flooded: Notify,
    answers: Mutex<Vec<Weak<Pace>>>,
}

/// Since when a part of an answer has waited for the client, in milliseconds; 0 while the client waits for the server.
#[derive(Default)]
struct Pace(AtomicU64);

/// Why a connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No request for a while.
    Idle,
    /// `headers` do not arrive, or an `answer` is not taken.
    Slow(&'static str),
    /// Requests are given up as fast as they arrive.
    Resets,
}

impl Watch {
    pub(super) fn new(timeout: Duration, idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            timeout,
            idle,
            start: Instant::now(),
            begun: Notify::new(),
            http2: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            given_up: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            flooded: Notify::new(),
            answers: Mutex::default(),
        })
    }

    /// Milliseconds since the start, from 1.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    fn answers(&self) -> MutexGuard<'_, Vec<Weak<Pace>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has arrived.
    pub(super) fn request(self: &Arc<Self>) -> Answer {
        self.begun.notify_one();
        self.under_way.fetch_add(1, Ordering::AcqRel);
        let pace = Arc::<Pace>::default();
        let mut answers = self.answers();
        if answers.len() >= FORGOTTEN {
            answers.retain(|pace| pace.strong_count() > 0);
        }
        answers.push(Arc::downgrade(&pace));
        drop(answers);
        Answer { watch: self.clone(), pace, finished: AtomicBool::new(false) }
    }

    /// Waits for a reason to close the connection.
    pub(super) async fn verdict(self: &Arc<Self>) -> Verdict {
        if self.last.load(Ordering::Acquire) == 0 && self.under_way.load(Ordering::Acquire) == 0 {
            // A client that sends nothing, or only the preface of HTTP/2, would otherwise hold a connection forever.
            tokio::select! {
                () = self.begun.notified() => {}
                () = tokio::time::sleep(self.timeout) => return Verdict::Slow("headers"),
            }
        }
        let tick = (self.timeout.min(self.idle) / 2).max(Duration::from_millis(50));
        loop {
            tokio::select! {
                () = tokio::time::sleep(tick) => {}
                () = self.flooded.notified() => return Verdict::Resets,
            }
            if let Some(verdict) = self.look() {
                return verdict;
            }
        }
    }

    fn look(&self) -> Option<Verdict> {
        let now = self.now();
        let passed = |since: u64, limit: Duration| u128::from(now.saturating_sub(since)) >= limit.as_millis();
        let too_long = |since: u64| since > 0 && passed(since, self.timeout);
        if too_long(self.blocked.load(Ordering::Acquire)) {
            return Some(Verdict::Slow("answer"));
        }
        let waiting = |pace: &Weak<Pace>| pace.upgrade().is_some_and(|pace| too_long(pace.0.load(Ordering::Acquire)));
        if self.answers().iter().any(waiting) {
            return Some(Verdict::Slow("answer"));
        }
        if self.under_way.load(Ordering::Acquire) > 0 {
            return None;
        }
        let heard = self.heard.load(Ordering::Acquire);
        if heard > 0 && !self.http2.load(Ordering::Acquire) {
            return too_long(heard).then_some(Verdict::Slow("headers"));
        }
        passed(self.last.load(Ordering::Acquire), self.idle).then_some(Verdict::Idle)
    }

    /// Bytes have arrived.
    fn hear(&self, bytes: &[u8]) {
        if self.heard.load(Ordering::Relaxed) == 0 {
            // The preface of HTTP/2; no request of HTTP/1.1 begins with it.
            if self.last.load(Ordering::Relaxed) == 0 && bytes.starts_with(b"PRI") {
                self.http2.store(true, Ordering::Release);
            }
            self.heard.store(self.now(), Ordering::Release);
        }
    }
}

/// The answer to one request, until its last part has been passed on or the request is given up.
pub(super) struct Answer {
    watch: Arc<Watch>,
    pace: Arc<Pace>,
    finished: AtomicBool,
}

impl Answer {
    /// A part is ready for the client.
    pub(super) fn ready(&self) {
        self.pace.0.store(self.watch.now(), Ordering::Release);
    }

    /// The client has taken the part.
    pub(super) fn taken(&self) {
        self.pace.0.store(0, Ordering::Release);
    }

    /// The answer is complete.
    pub(super) fn finished(&self) {
        self.taken();
        self.finished.store(true, Ordering::Release);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let watch = &self.watch;
        watch.heard.store(0, Ordering::Release);
        watch.under_way.fetch_sub(1, Ordering::AcqRel);
        watch.last.store(watch.now(), Ordering::Release);
        if *self.finished.get_mut() {
            watch.finished.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let given_up = watch.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up > watch.finished.load(Ordering::Relaxed) + GIVEN_UP {
            watch.flooded.notify_one();
        }
    }
}

/// A stream that notices when the other side does not read.
pub(super) struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch }
    }

    fn note<T>(&self, outcome: Poll<T>) -> Poll<T> {
        let blocked = &self.watch.blocked;
        if outcome.is_ready() {
            blocked.store(0, Ordering::Release);
        } else {
            let _ = blocked.compare_exchange(0, self.watch.now(), Ordering::AcqRel, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(bytes) = buffer.filled().get(before..).filter(|bytes| !bytes.is_empty()) {
            self.watch.hear(bytes);
        }
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.note(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.note(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.note(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{GIVEN_UP, Verdict, Watch};

    const TIMEOUT: Duration = Duration::from_millis(100);

    async fn judged(watch: &Arc<Watch>) -> Option<Verdict> {
        tokio::time::timeout(TIMEOUT * 4, watch.verdict()).await.ok()
    }

    #[tokio::test]
    async fn who_takes_nothing_is_slow_and_who_waits_is_not() {
        let watch = Watch::new(TIMEOUT, TIMEOUT);
        let answer = watch.request();
        assert_eq!(judged(&watch).await, None, "the server takes its time");
        answer.ready();
        assert_eq!(judged(&watch).await, Some(Verdict::Slow("answer")));
        answer.taken();
        assert_eq!(judged(&watch).await, None, "the next part is not there yet");
        answer.finished();
        drop(answer);
        assert_eq!(judged(&watch).await, Some(Verdict::Idle));
    }

    #[tokio::test]
    async fn between_two_requests_there_is_more_time_than_within_one() {
        let watch = Watch::new(TIMEOUT, TIMEOUT * 10);
        watch.hear(b"POST / HTTP/1.1");
        watch.request().finished();
        assert_eq!(judged(&watch).await, None, "idle, and allowed to be");
        watch.hear(b"POST");
        assert_eq!(judged(&watch).await, Some(Verdict::Slow("headers")));
        let watch = Watch::new(TIMEOUT, TIMEOUT * 10);
        watch.hear(b"PRI * HTTP/2.0");
        watch.request().finished();
        watch.hear(b"a ping");
        assert_eq!(judged(&watch).await, None, "alive, on HTTP/2");
    }

    #[tokio::test]
    async fn requests_that_are_given_up_count_against_those_that_finish() {
        let watch = Watch::new(Duration::from_secs(60), Duration::from_secs(60));
        for _ in 0..GIVEN_UP {
            drop(watch.request());
            let answer = watch.request();
            answer.finished();
        }
        for _ in 0..GIVEN_UP {
            drop(watch.request());
        }
        assert_eq!(judged(&watch).await, None);
        drop(watch.request());
        assert_eq!(judged(&watch).await, Some(Verdict::Resets));
    }
}
