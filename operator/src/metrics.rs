//! Metrics of the operator. Every label has a closed set of values; none names a tenant. `docs/reference/metrics.md` lists them all.

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::reason::Reason;

const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Outcomes of calls to databases and Key Vaults.
pub const OUTCOMES: [&str; 6] = ["ok", "not_found", "forbidden", "throttled", "unavailable", "refused"];

/// Kinds of calls to a database.
pub const DATABASE_OPERATIONS: [&str; 9] =
    ["connect", "lock", "observe", "apply", "revoke", "login", "probe", "fence", "migrate"];

/// Kinds of calls to a Key Vault.
pub const VAULT_OPERATIONS: [&str; 8] = ["get", "get_deleted", "list", "set", "update", "recover", "delete", "purge"];

/// All metrics, and the registry they are in.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: HistogramVec,
    steps: IntCounterVec,
    status_writes: IntCounterVec,
    tenants: IntGaugeVec,
    drift: IntCounterVec,
    rotations: IntCounterVec,
    rotation_age: IntGauge,
    rotation_overdue: IntGauge,
    vault_calls: IntCounterVec,
    vault_duration: HistogramVec,
    database_calls: IntCounterVec,
    database_duration: HistogramVec,
    circuits: IntGaugeVec,
    unclaimed: IntGaugeVec,
    reloads: IntCounterVec,
    /// 1 while the configuration on disk cannot be used and an earlier one is in force.
    pub configuration_refused: IntGauge,
    /// Passes that run now.
    pub running: IntGauge,
    /// Tenants whose pass is due and has not begun.
    pub queue_depth: IntGauge,
    /// 1 while this replica leads, 0 while it stands by.
    pub leader: IntGauge,
}

/// Makes metrics and registers them at once.
struct Maker(Registry);

impl Maker {
    fn counters(&self, opts: Opts, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        let made = IntCounterVec::new(opts, labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauges(&self, opts: Opts, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        let made = IntGaugeVec::new(opts, labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn gauge(&self, opts: Opts) -> Result<IntGauge, prometheus::Error> {
        let made = IntGauge::with_opts(opts)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }

    fn durations(&self, opts: Opts, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        let made = HistogramVec::new(prometheus::HistogramOpts::from(opts).buckets(BUCKETS.to_vec()), labels)?;
        self.0.register(Box::new(made.clone()))?;
        Ok(made)
    }
}

impl Metrics {
    /// Registers all metrics; those with known labels start at zero.
    ///
    /// # Errors
    /// Two metrics of the same name: a defect.
    pub fn new() -> Result<Self, prometheus::Error> {
        let make = Maker(Registry::new());
        make.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let name = |name: &str, help: &str| Opts::new(format!("storefence_operator_{name}"), help);
        let metrics = Self {
            reconciles: make.counters(
                name("reconcile_total", "Passes over a RetailTenant by the reason they ended with."),
                &["reason"],
            )?,
            duration: make.durations(name("reconcile_duration_seconds", "Duration of a pass."), &["outcome"])?,
            steps: make
                .counters(name("steps_total", "Steps taken to bring a tenant to its desired state."), &["backend"])?,
            status_writes: make
                .counters(name("kubernetes_writes_total", "Writes to the Kubernetes API."), &["object"])?,
            tenants: make.gauges(
                name("tenants", "RetailTenants by condition, its status and its reason."),
                &["condition", "status", "reason"],
            )?,
            drift: make.counters(
                name("drift_total", "Deviations from the desired state that were not of the spec's making."),
                &["outcome"],
            )?,
            rotations: make.counters(
                name(
                    "rotations_total",
                    "Switches to new credentials, and passes in which a step of a rotation failed.",
                ),
                &["outcome"],
            )?,
            rotation_age: make.gauge(name("rotation_age_seconds", "Age of the oldest credentials in force."))?,
            rotation_overdue: make.gauge(name(
                "rotation_overdue_seconds",
                "How long the rotation that is most overdue should have begun; 0 where none is.",
            ))?,
            vault_calls: make.counters(
                name("key_vault_calls_total", "Calls to Key Vault by operation and outcome."),
                &["operation", "outcome"],
            )?,
            vault_duration: make.durations(
                name("key_vault_call_duration_seconds", "Duration of a call to Key Vault."),
                &["operation"],
            )?,
            database_calls: make.counters(
                name("database_calls_total", "Calls to databases by operation and outcome."),
                &["operation", "outcome"],
            )?,
            database_duration: make.durations(
                name("database_call_duration_seconds", "Duration of a call to a database."),
                &["operation"],
            )?,
            circuits: make.gauges(
                name(
                    "circuit_open",
                    "1 while calls to the database or Key Vault of that name in the configuration are held back.",
                ),
                &["backend", "name"],
            )?,
            unclaimed: make.gauges(
                name(
                    "unclaimed_tenants",
                    "Tenants in the database of that name in the configuration that no RetailTenant stands for.",
                ),
                &["database"],
            )?,
            reloads: make.counters(
                name("configuration_reloads_total", "Changed configurations by whether they could be used."),
                &["outcome"],
            )?,
            configuration_refused: make.gauge(name(
                "configuration_refused",
                "1 while the configuration on disk cannot be used and the last good one is in force.",
            ))?,
            running: make.gauge(name("reconciles_running", "Passes that run now."))?,
            queue_depth: make.gauge(name("queue_depth", "Tenants whose pass is due and has not begun."))?,
            leader: make.gauge(name("leader", "1 while this replica works, 0 while it stands by."))?,
            registry: make.0,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        let Self { reconciles, duration, steps, rotations, status_writes, drift, reloads, .. } = self;
        for reason in Reason::ALL {
            reconciles.with_label_values(&[reason.as_str()]);
        }
        for backend in ["database", "key_vault"] {
            steps.with_label_values(&[backend]);
        }
        for outcome in ["ok", "error"] {
            duration.with_label_values(&[outcome]);
            rotations.with_label_values(&[outcome]);
            reloads.with_label_values(&[outcome]);
        }
        for outcome in ["found", "mended"] {
            drift.with_label_values(&[outcome]);
        }
        for object in ["status", "finalizer", "event"] {
            status_writes.with_label_values(&[object]);
        }
        for operation in DATABASE_OPERATIONS {
            self.database_calls.with_label_values(&[operation, "ok"]);
            self.database_duration.with_label_values(&[operation]);
        }
        for operation in VAULT_OPERATIONS {
            self.vault_calls.with_label_values(&[operation, "ok"]);
            self.vault_duration.with_label_values(&[operation]);
        }
    }

    /// Counts a pass.
    pub fn reconciled(&self, reason: Reason, duration: Duration) {
        let outcome = if reason == Reason::Reconciled { "ok" } else { "error" };
        self.reconciles.with_label_values(&[reason.as_str()]).inc();
        self.duration.with_label_values(&[outcome]).observe(duration.as_secs_f64());
    }

    /// Counts the steps that were taken in the database and in the Key Vault.
    pub fn steps(&self, database: usize, key_vault: usize) {
        self.steps.with_label_values(&["database"]).inc_by(database as u64);
        self.steps.with_label_values(&["key_vault"]).inc_by(key_vault as u64);
    }

    /// Counts the differences that a pass found although the spec had not changed, and those that it repaired.
    pub fn drift(&self, found: u64, repaired: u64) {
        self.drift.with_label_values(&["found"]).inc_by(found);
        self.drift.with_label_values(&["mended"]).inc_by(repaired);
    }

    /// Counts a switch to new credentials, or a failed step of a rotation.
    pub fn rotation(&self, ok: bool) {
        self.rotations.with_label_values(&[if ok { "ok" } else { "error" }]).inc();
    }

    /// Sets the age of the oldest credentials in force and the longest delay of a rotation, in seconds.
    pub fn rotation_ages(&self, oldest: i64, overdue: i64) {
        self.rotation_age.set(oldest);
        self.rotation_overdue.set(overdue);
    }

    /// Counts a write to the Kubernetes API: `status`, `finalizer` or `event`.
    pub fn kubernetes_write(&self, object: &'static str) {
        self.status_writes.with_label_values(&[object]).inc();
    }

    /// Counts a call to Key Vault.
    pub fn vault_call(&self, operation: &'static str, outcome: &'static str, duration: Duration) {
        self.vault_calls.with_label_values(&[operation, outcome]).inc();
        self.vault_duration.with_label_values(&[operation]).observe(duration.as_secs_f64());
    }

    /// Counts a call to a database.
    pub fn database_call(&self, operation: &'static str, outcome: &'static str, duration: Duration) {
        self.database_calls.with_label_values(&[operation, outcome]).inc();
        self.database_duration.with_label_values(&[operation]).observe(duration.as_secs_f64());
    }

    /// The gauge of one circuit: `database` or `key_vault`, by its name in the configuration.
    #[must_use]
    pub fn circuit(&self, backend: &'static str, name: &str) -> IntGauge {
        if backend == "database" {
            self.unclaimed.with_label_values(&[name]);
        }
        self.circuits.with_label_values(&[backend, name])
    }

    /// Forgets the circuit of a database or Key Vault that the configuration no longer has.
    pub fn forget_circuit(&self, backend: &'static str, name: &str) {
        // The only error is that there is none.
        let _ = self.circuits.remove_label_values(&[backend, name]);
        if backend == "database" {
            let _ = self.unclaimed.remove_label_values(&[name]);
        }
    }

    /// Sets the number of tenants in a database that no RetailTenant stands for.
    pub fn unclaimed(&self, database: &str, tenants: usize) {
        self.unclaimed.with_label_values(&[database]).set(i64::try_from(tenants).unwrap_or(i64::MAX));
    }

    /// Counts a reload of the configuration, and whether it could be used.
    pub fn reloaded(&self, ok: bool) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "error" }]).inc();
    }

    /// Replaces the counts of tenants by condition, status and reason.
    pub fn tenants(&self, counts: impl IntoIterator<Item = ((&'static str, &'static str, &'static str), i64)>) {
        self.tenants.reset();
        for ((condition, status, reason), count) in counts {
            self.tenants.with_label_values(&[condition, status, reason]).set(count);
        }
    }

    /// The text format.
    ///
    /// # Errors
    /// A metric that cannot be rendered: a defect.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
