//! The I/O around [`plan`](crate::plan): one pass over a tenant observes, compares, applies and probes ([`pass`]); a
//! deleted object is released ([`finalize`]); whatever fails on the way is a [`failure`].

mod adjust;
pub mod failure;
pub mod finalize;
mod held;
pub mod pass;
mod secrets;
