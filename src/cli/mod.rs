//! The commands people type.

pub mod crd;
