//! The Helm chart: rendered by Helm's own engine and checked against the Kubernetes types, the Pod Security Standard
//! "restricted", the binaries' command lines and metrics, golden files, and the schema of its values.

mod binaries;
mod expected;
mod monitoring;
mod numbers;
mod objects;
mod readme;
mod refused;
mod render;
mod values;
