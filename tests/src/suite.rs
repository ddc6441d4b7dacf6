//! A test binary whose tests share something that is slow to start and must be stopped, such as a running stack.
//!
//! It speaks libtest's command line, so `cargo test`, `cargo nextest` and an IDE list its tests and run each by itself.
//! Nothing is started before a test needs it: `--list` answers at once, and one test alone starts one instance.

use std::{
    future::Future,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use futures::future::BoxFuture;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

type Start<S> = Box<dyn Fn() -> BoxFuture<'static, Result<S>> + Send + Sync>;
type Stop<S> = Box<dyn Fn(S) -> BoxFuture<'static, ()> + Send + Sync>;
type Body<S> = Box<dyn FnOnce(Arc<S>) -> BoxFuture<'static, Result<()>> + Send>;

/// Tests over instances of `S`. A test has its instance to itself while it runs, and the next test reuses it. An instance
/// whose test failed is stopped and not reused, so a failure cannot spread.
pub struct Suite<S> {
    tests: Vec<Test<S>>,
    start: Start<S>,
    failed: fn(&S),
    threads: usize,
}

struct Test<S> {
    name: String,
    body: Body<S>,
    reuse: bool,
}

/// The instances that no test uses now.
struct Pool<S> {
    runtime: Runtime,
    start: Start<S>,
    stop: Stop<S>,
    failed: fn(&S),
    idle: Mutex<Vec<Arc<S>>>,
}

impl<S: Send + Sync + 'static> Suite<S> {
    /// A suite whose instances are started by `start`. One test runs at a time.
    pub fn new<F>(start: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<S>> + Send + 'static,
    {
        Self { tests: Vec::new(), start: Box::new(move || Box::pin(start())), failed: |_| {}, threads: 1 }
    }

    /// Runs up to `threads` tests at once, each with an instance of its own.
    #[must_use]
    pub fn parallel(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Calls `failed` with the instance of a test that failed, to save its logs.
    #[must_use]
    pub fn on_failure(self, failed: fn(&S)) -> Self {
        Self { failed, ..self }
    }

    #[must_use]
    pub fn test<F>(mut self, name: &str, body: impl FnOnce(Arc<S>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.add(name, body);
        self
    }

    /// Adds a test.
    pub fn add<F>(&mut self, name: &str, body: impl FnOnce(Arc<S>) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.tests.push(Test {
            name: name.to_owned(),
            body: Box::new(move |shared| Box::pin(body(shared))),
            reuse: true,
        });
    }

    /// Adds a test that leaves its instance in a state that no other test can use.
    pub fn add_destructive<F>(&mut self, name: &str, body: impl FnOnce(Arc<S>) -> F + Send + 'static)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.add(name, body);
        if let Some(test) = self.tests.last_mut() {
            test.reuse = false;
        }
    }

    /// Runs the tests that the command line asks for, then hands every instance to `stop`.
    pub fn run<F>(self, stop: impl Fn(S) -> F + Send + Sync + 'static) -> ExitCode
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let arguments = Arguments::from_args();
        let threads = arguments.test_threads.unwrap_or(self.threads).min(self.threads);
        let arguments = Arguments { test_threads: Some(threads), ..arguments };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let pool = Arc::new(Pool {
            runtime: runtime.expect("a runtime starts"),
            start: self.start,
            stop: Box::new(move |shared| Box::pin(stop(shared))),
            failed: self.failed,
            idle: Mutex::default(),
        });
        let trials = self.tests.into_iter().map(|test| pool.trial(test)).collect();
        let conclusion = libtest_mimic::run(&arguments, trials);
        pool.idle().drain(..).for_each(|shared| pool.stop(shared));
        conclusion.exit_code()
    }
}

impl<S: Send + Sync + 'static> Pool<S> {
    fn trial(self: &Arc<Self>, test: Test<S>) -> Trial {
        let pool = Arc::clone(self);
        Trial::test(test.name, move || {
            let taken = pool.idle().pop();
            let shared = match taken {
                Some(shared) => shared,
                None => Arc::new(pool.runtime.block_on((pool.start)()).map_err(|error| failure(&error))?),
            };
            let outcome = match pool.runtime.block_on(pool.runtime.spawn((test.body)(Arc::clone(&shared)))) {
                Ok(outcome) => outcome.map_err(|error| failure(&error)),
                Err(panic) => Err(panic_text(panic)),
            };
            if outcome.is_err() {
                (pool.failed)(&shared);
            }
            if test.reuse && outcome.is_ok() {
                pool.idle().push(shared);
            } else {
                pool.stop(shared);
            }
            outcome
        })
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Arc<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops an instance. A task that a failed test left behind may still hold it: then it ends with the process.
    fn stop(&self, shared: Arc<S>) {
        if let Some(shared) = Arc::into_inner(shared) {
            self.runtime.block_on((self.stop)(shared));
        }
    }
}

fn failure(error: &anyhow::Error) -> Failed {
    Failed::from(format!("{error:?}"))
}

fn panic_text(error: tokio::task::JoinError) -> Failed {
    let Ok(panic) = error.try_into_panic() else { return "cancelled".into() };
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked").to_owned().into()
}

/// Says why a test does nothing here.
pub fn skip(why: &str) -> Result<()> {
    println!("skipped: {why}");
    Ok(())
}
