//! Metrics of the operator. Every label has a closed set of values; none names a tenant.

use std::time::Duration;

use prometheus::{Encoder, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::{errors::Reason, reconcile::action::Plan};

const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics, and the registry they are in.
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: HistogramVec,
    steps: IntCounterVec,
    status_writes: IntCounterVec,
    tenants: IntGaugeVec,
    rotations: IntCounterVec,
    rotation_age: IntGauge,
    rotation_overdue: IntGauge,
    vault_calls: IntCounterVec,
    vault_duration: HistogramVec,
    /// Passes that run now.
    pub running: IntGauge,
    /// 1 while this replica works, 0 while it stands by.
    pub leader: IntGauge,
}

impl Metrics {
    /// Registers all metrics; those with known labels start at zero.
    ///
    /// # Errors
    /// Two metrics of the same name: a defect.
    pub fn new() -> Result<Self, prometheus::Error> {
        let name = |name: &str, help: &str| Opts::new(format!("storefence_operator_{name}"), help);
        let buckets = |opts: Opts| prometheus::HistogramOpts::from(opts).buckets(BUCKETS.to_vec());
        let metrics = Self {
            registry: Registry::new(),
            reconciles: IntCounterVec::new(
                name("reconcile_total", "Passes over a RetailTenant by the reason they ended with."),
                &["reason"],
            )?,
            duration: HistogramVec::new(
                buckets(name("reconcile_duration_seconds", "Duration of a pass.")),
                &["outcome"],
            )?,
            steps: IntCounterVec::new(
                name("steps_total", "Steps taken to bring a tenant to its desired state."),
                &["backend"],
            )?,
            status_writes: IntCounterVec::new(
                name("kubernetes_writes_total", "Writes to the Kubernetes API."),
                &["object"],
            )?,
            tenants: IntGaugeVec::new(
                name("tenants", "RetailTenants by condition and status."),
                &["condition", "status"],
            )?,
            rotations: IntCounterVec::new(
                name(
                    "rotations_total",
                    "Switches to new credentials, and passes in which a step of a rotation failed.",
                ),
                &["outcome"],
            )?,
            rotation_age: IntGauge::with_opts(name("rotation_age_seconds", "Age of the oldest credentials in force."))?,
            rotation_overdue: IntGauge::with_opts(name(
                "rotation_overdue_seconds",
                "How long the rotation that is most overdue should have begun; 0 where none is.",
            ))?,
            vault_calls: IntCounterVec::new(
                name("key_vault_calls_total", "Calls to Key Vault by operation and outcome."),
                &["operation", "outcome"],
            )?,
            vault_duration: HistogramVec::new(
                buckets(name("key_vault_call_duration_seconds", "Duration of a call to Key Vault, retries included.")),
                &["operation"],
            )?,
            running: IntGauge::with_opts(name("reconciles_running", "Passes that run now."))?,
            leader: IntGauge::with_opts(name("leader", "1 while this replica works, 0 while it stands by."))?,
        };
        let Self {
            registry,
            reconciles,
            duration,
            steps,
            status_writes,
            tenants,
            rotations,
            rotation_age,
            rotation_overdue,
            vault_calls,
            vault_duration,
            running,
            leader,
        } = &metrics;
        registry.register(Box::new(reconciles.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        registry.register(Box::new(steps.clone()))?;
        registry.register(Box::new(status_writes.clone()))?;
        registry.register(Box::new(tenants.clone()))?;
        registry.register(Box::new(rotations.clone()))?;
        registry.register(Box::new(rotation_age.clone()))?;
        registry.register(Box::new(rotation_overdue.clone()))?;
        registry.register(Box::new(vault_calls.clone()))?;
        registry.register(Box::new(vault_duration.clone()))?;
        registry.register(Box::new(running.clone()))?;
        registry.register(Box::new(leader.clone()))?;
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        for reason in Reason::ALL {
            reconciles.with_label_values(&[reason.as_str()]);
        }
        for backend in ["database", "key_vault"] {
            steps.with_label_values(&[backend]);
        }
        for outcome in ["ok", "error"] {
            rotations.with_label_values(&[outcome]);
        }
        for object in ["status", "finalizer", "event"] {
            status_writes.with_label_values(&[object]);
        }
        Ok(metrics)
    }

    /// Counts a pass.
    pub fn reconciled(&self, reason: Reason, duration: Duration) {
        let outcome = if reason == Reason::Reconciled { "ok" } else { "error" };
        self.reconciles.with_label_values(&[reason.as_str()]).inc();
        self.duration.with_label_values(&[outcome]).observe(duration.as_secs_f64());
    }

    /// Counts the steps of a plan that was carried out.
    pub fn steps(&self, plan: &Plan) {
        self.steps.with_label_values(&["database"]).inc_by(plan.database.len() as u64);
        self.steps.with_label_values(&["key_vault"]).inc_by(plan.secrets.len() as u64);
    }

    /// Counts a switch to new credentials, or a failed step towards it or after it.
    pub fn rotation(&self, ok: bool) {
        self.rotations.with_label_values(&[if ok { "ok" } else { "error" }]).inc();
    }

    /// Replaces age and delay of rotations, in seconds.
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

    /// Replaces the counts of tenants by condition and status.
    pub fn tenants(&self, counts: impl IntoIterator<Item = ((&'static str, &'static str), i64)>) {
        self.tenants.reset();
        for ((condition, status), count) in counts {
            self.tenants.with_label_values(&[condition, status]).set(count);
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
