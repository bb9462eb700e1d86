//! multiarch-operator: one Kubernetes resource, `MultiArchImage`, says which platforms an image must have
//! and where each comes from; the operator builds, verifies and publishes them as one image index.
#![forbid(unsafe_code)]

pub mod api;
pub mod build;
pub mod cli;
pub mod image;
pub mod platform;
pub mod registry;
