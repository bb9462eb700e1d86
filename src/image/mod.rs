//! Image manifests, configs and indexes: what is published and how it is verified.
