//! Platforms: `os/architecture[/variant]`.
