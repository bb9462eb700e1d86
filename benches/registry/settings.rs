//! What is measured, from the environment.

use std::path::{Path, PathBuf};

use crate::tools;

/// Where storage in memory is on Linux, so that the disk is not what is measured.
const MEMORY: &str = "/dev/shm";

pub struct Settings {
    /// `BENCH_RUNS`: how often each figure is measured; the middle one counts.
    pub runs: usize,
    /// `BENCH_FULL=1`: all rows of the publishing scenes, which takes hours.
    pub full: bool,
    /// `BENCH_LAYER_MIB`: the bytes of the image that is copied.
    pub layer_mebibytes: u64,
    /// `BENCH_ONLY`: of `publishing`, `again`, `throughput` and `startup` those that are named.
    only: Option<String>,
    /// Where the registries keep what they have.
    pub storage: PathBuf,
}

impl Settings {
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name: &str, default: u64| match text(name) {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
            None => default,
        };
        let memory = Path::new(MEMORY);
        let storage = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self {
            runs: usize::try_from(number("BENCH_RUNS", 3).max(1)).expect("a small number"),
            full: text("BENCH_FULL").is_some_and(|text| text != "0"),
            layer_mebibytes: number("BENCH_LAYER_MIB", 512).max(4),
            only: text("BENCH_ONLY"),
            storage,
        }
    }

    pub fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only.split(',').any(|name| name == part))
    }

    /// A home for the tools, of this run only.
    pub fn home(&self) -> PathBuf {
        tools::results().join("home")
    }
}
