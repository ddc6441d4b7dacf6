//! A test binary whose tests share something that must end in order.

use std::{future::Future, process::ExitCode, sync::Arc};

use anyhow::Result;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::Runtime;

/// Tests over one shared value, run one after another.
pub struct Suite<S> {
    runtime: Arc<Runtime>,
    shared: Arc<S>,
    trials: Vec<Trial>,
}

impl<S: Send + Sync + 'static> Suite<S> {
    /// Makes the shared value.
    pub fn new<F: Future<Output = Result<S>>>(start: impl FnOnce() -> F) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let shared = runtime.block_on(start())?;
        Ok(Self { runtime: Arc::new(runtime), shared: Arc::new(shared), trials: Vec::new() })
    }

    /// Adds a test.
    #[must_use]
    pub fn test<F>(mut self, name: &str, body: impl FnOnce(Arc<S>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (runtime, shared) = (Arc::clone(&self.runtime), Arc::clone(&self.shared));
        self.trials.push(Trial::test(name, move || {
            runtime
                .block_on(runtime.spawn(body(shared)))
                .map_err(panic_text)?
                .map_err(|error| Failed::from(format!("{error:?}")))
        }));
        self
    }

    /// Runs the tests, then hands the shared value to `stop`.
    pub fn run<F: Future<Output = ()>>(self, stop: impl FnOnce(S) -> F) -> ExitCode {
        let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
        let conclusion = libtest_mimic::run(&arguments, self.trials);
        if let Some(shared) = Arc::into_inner(self.shared) {
            self.runtime.block_on(stop(shared));
        }
        conclusion.exit_code()
    }
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
