//! What the process costs, under the names that every program has for it; Linux only.

use prometheus_client::registry::Registry;

/// The figures of this moment. Empty where the kernel does not tell.
#[cfg(not(target_os = "linux"))]
pub(super) fn registry() -> Registry {
    Registry::default()
}

/// The figures of this moment. Empty where the kernel does not tell.
#[cfg(target_os = "linux")]
pub(super) fn registry() -> Registry {
    // Half of the figures would be worse than none: they are read at once.
    linux::figures().map_or_else(|_| Registry::default(), linux::Figures::registry)
}

#[cfg(target_os = "linux")]
mod linux {
    use procfs::process::{LimitValue, Process};
    use procfs::{CurrentSI as _, ProcResult, WithCurrentSystemInfo as _};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::gauge::ConstGauge;
    use prometheus_client::registry::{Registry, Unit};

    pub(super) struct Figures {
        cpu_seconds: f64,
        start_seconds: f64,
        resident_bytes: u64,
        virtual_bytes: u64,
        open_files: u64,
        most_files: Option<u64>,
    }

    pub(super) fn figures() -> ProcResult<Figures> {
        let process = Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second();
        let boot = procfs::KernelStats::current()?.btime;
        let most_files = match process.limits()?.max_open_files.soft_limit {
            LimitValue::Value(most) => Some(most),
            LimitValue::Unlimited => None,
        };
        Ok(Figures {
            cpu_seconds: (stat.utime + stat.stime) as f64 / ticks as f64,
            start_seconds: boot as f64 + stat.starttime as f64 / ticks as f64,
            resident_bytes: stat.rss_bytes().get(),
            virtual_bytes: stat.vsize,
            open_files: process.fd_count()? as u64,
            most_files,
        })
    }

    impl Figures {
        pub(super) fn registry(self) -> Registry {
            let mut all = Registry::with_prefix("process");
            let cpu = ConstCounter::new(self.cpu_seconds);
            all.register_with_unit("cpu", "CPU time spent, in user and system mode", Unit::Seconds, cpu);
            let start = ConstGauge::new(self.start_seconds);
            all.register_with_unit("start_time", "When the process began, since 1970", Unit::Seconds, start);
            let resident = ConstGauge::new(self.resident_bytes);
            all.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, resident);
            let size = ConstGauge::new(self.virtual_bytes);
            all.register_with_unit("virtual_memory", "Virtual memory", Unit::Bytes, size);
            all.register("open_fds", "File descriptors that are open", ConstGauge::new(self.open_files));
            if let Some(most) = self.most_files {
                all.register("max_fds", "File descriptors that may be open", ConstGauge::new(most));
            }
            all
        }
    }
}
