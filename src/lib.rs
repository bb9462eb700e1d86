//! multiarch-operator: one Kubernetes resource, `MultiArchImage`, says which platforms an image must have
//! and where each comes from; the operator builds, verifies and publishes them as one image index.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod image;
pub mod platform;
pub mod registry;
