use std::time::Duration;

/// A moment of the host's monotonic clock, in nanoseconds since the host started.
///
/// It means the same to every process of the host, so it may lie in memory that outlives a worker. Only the worker
/// reads the clock; below it, time is an argument.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The moment `nanoseconds` after the host started.
    pub const fn from_nanoseconds(nanoseconds: u64) -> Self {
        Instant(nanoseconds)
    }

    /// Nanoseconds since the host started.
    pub const fn nanoseconds(self) -> u64 {
        self.0
    }

    /// Whole seconds since the host started, wrapping after 136 years.
    #[expect(clippy::cast_possible_truncation, reason = "wraps, as said")]
    pub const fn seconds(self) -> u32 {
        (self.0 / 1_000_000_000) as u32
    }

    /// Whole milliseconds since the host started.
    pub const fn milliseconds(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment, `duration` later; the end of time when there is none such.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}
