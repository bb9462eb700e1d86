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
#[doc(hidden)]
pub mod fuzzing;
pub mod git;
pub mod image;
pub mod layout;
pub mod plan;
pub mod platform;
pub mod registry;
