//! multiarch-operator: one Kubernetes resource, `MultiArchImage`, says which platforms an image must have
//! and where each comes from; the operator builds, verifies and publishes them as one image index.
//!
//! ```text
//! watch event ─▶ observe ───────▶ plan ─────────────▶ status ────────────▶ tasks
//!                (watches, and    (pure: spec +       (one server-side     (registry, git, Jobs;
//!                 how the tasks    observed + clock    apply, only if       how each ends wakes
//!                 have ended)      → status, tasks)    it changed)          the next round)
//! ```
#![forbid(unsafe_code)]

pub mod api;
pub mod build;
pub mod cli;
pub mod controller;
pub mod dockerfile;
#[doc(hidden)]
pub mod fuzzing;
pub mod git;
mod glob;
pub mod health;
pub mod image;
pub mod layout;
pub mod lease;
pub mod metrics;
pub mod network;
pub mod plan;
pub mod platform;
pub mod policy;
pub mod registry;
pub mod server;
pub mod settings_file;
pub mod telemetry;
pub mod verification;
pub mod watched_file;
