//! One operator at work: a Lease that one process holds at a time.
//!
//! Whether somebody else's lease has run out is decided by when *this* process saw it change last, never by the times
//! written in it, so clocks that differ do no harm. Every write carries the resourceVersion of what was read, so of two
//! that reach for it one gets it. Figures and behaviour are those of Kubernetes' own components
//! (`k8s.io/client-go/tools/leaderelection`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::api::MANAGER;
use crate::health::Health;

/// For how long a lease that nobody renews is somebody's.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// After which time without a renewal its holder stops, which is before anybody else may take it.
const DEADLINE: Duration = Duration::from_secs(10);
/// The pause between two looks at somebody else's lease.
const RETRY: Duration = Duration::from_secs(2);
/// The pause after a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_millis(500);
/// For how long one request may be under way: an API server that is busy may need seconds for one.
const PATIENCE: Duration = Duration::from_millis(3_500);

/// For how long the lease is being given back: a pod is given so much time to end.
const RELEASE: Duration = Duration::from_secs(4);

/// Which lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Election {
    /// The namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this process is: different from every other one's, also from the one before in the same pod.
    pub identity: String,
}

/// Why the lease cannot be taken, or is held no more.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// It cannot be had at all.
    #[error("{0}")]
    Refused(String),
    /// It was not renewed in time, or somebody else has it.
    #[error("lease {lease} is lost: {cause}; another operator may be at work, so this one ends")]
    Lost {
        /// Namespace and name of the lease.
        lease: String,
        /// What happened.
        cause: String,
    },
}

/// The lease as it was read last, and since when it is unchanged.
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What a candidate may do with the lease that it sees.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Take,
    Wait,
}

impl Seen {
    fn holder(&self) -> Option<&str> {
        let holder = self.lease.spec.as_ref()?.holder_identity.as_deref();
        holder.filter(|holder| !holder.is_empty())
    }

    /// Takes over what was read just now; it counts from now on if it has changed.
    fn update(seen: Option<Seen>, lease: Lease, now: Instant) -> Seen {
        let since = match seen {
            Some(before) if before.lease.spec == lease.spec => before.since,
            _ => now,
        };
        Seen { lease, since }
    }

    fn verdict(&self, identity: &str, now: Instant) -> Verdict {
        let spec = self.lease.spec.as_ref();
        let lasts = spec.and_then(|spec| u64::try_from(spec.lease_duration_seconds?).ok());
        let lasts = lasts.map_or(DURATION, Duration::from_secs);
        match self.holder() {
            Some(holder) if holder != identity && now.duration_since(self.since) < lasts => Verdict::Wait,
            _ => Verdict::Take,
        }
    }
}

/// The spec that makes the lease `identity`'s. Who held it before counts for the number of changes.
fn held(before: Option<&LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let spec = before.cloned().unwrap_or_default();
    let is_renewed = spec.holder_identity.as_deref() == Some(identity);
    let changes = spec.lease_transitions.unwrap_or_default();
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if is_renewed { spec.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if is_renewed || before.is_none() {
            changes
        } else {
            changes.saturating_add(1)
        }),
        ..spec
    }
}

impl fmt::Display for Election {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl Election {
    /// Waits until the lease is this process's, and keeps it from then on.
    ///
    /// # Errors
    /// When the API server refuses it, or the namespace is not there. What may pass is tried again.
    pub async fn win(self, client: Client, health: Arc<Health>) -> Result<Leadership, LeaseError> {
        let leases: Api<Lease> = Api::namespaced(client, &self.namespace);
        let mut seen: Option<Seen> = None;
        let mut told = None;
        loop {
            match self.attempt(&leases, &mut seen).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = %self, identity = self.identity, "leading");
                    let renewal = tokio::spawn(self.clone().renew(leases.clone(), lease, health));
                    return Ok(Leadership { election: self, leases, renewal });
                }
                Ok(None) => {
                    let holder = seen.as_ref().and_then(Seen::holder).unwrap_or_default().to_owned();
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(lease = %self, holder, "standing by");
                        health.stands_by(&holder);
                        told = Some(holder);
                    }
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                    return Err(LeaseError::Refused(format!(
                        "lease {self} cannot be taken: {}; the operator's account needs get, create and update of \
                         leases.coordination.k8s.io there, or run a single one with --leader-election=false",
                        status.message
                    )));
                }
                Err(error) => tracing::warn!(lease = %self, "the lease cannot be taken now: {error}"),
            }
            sleep(RETRY.mul_f64(1.0 + fastrand::f64() * 0.2)).await;
        }
    }

    /// Takes the lease if it is free; `None` if it is somebody's.
    async fn attempt(
        &self,
        leases: &Api<Lease>,
        seen: &mut Option<Seen>,
    ) -> Result<Option<Lease>, kube::Error> {
        let lease = patient(leases.get_opt(&self.name)).await?;
        let now = Instant::now();
        let Some(lease) = lease else {
            // Whoever held it when it was deleted makes it again with its next renewal.
            let is_held =
                seen.as_ref().is_some_and(|before| before.verdict(&self.identity, now) == Verdict::Wait);
            return if is_held { Ok(None) } else { unless_faster(self.create(leases).await) };
        };
        let before = seen.take();
        let current = seen.insert(Seen::update(before, lease, now));
        match current.verdict(&self.identity, now) {
            Verdict::Wait => Ok(None),
            Verdict::Take => unless_faster(unless_gone(self.write(leases, current.lease.clone()).await)),
        }
    }

    async fn create(&self, leases: &Api<Lease>) -> Result<Option<Lease>, kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let spec = Some(held(None, &self.identity, Timestamp::now()));
        patient(leases.create(&PostParams::default(), &Lease { metadata, spec })).await.map(Some)
    }

    /// Writes the lease as this process's, if nobody has written it since.
    async fn write(&self, leases: &Api<Lease>, mut lease: Lease) -> Result<Lease, kube::Error> {
        lease.spec = Some(held(lease.spec.as_ref(), &self.identity, Timestamp::now()));
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        patient(leases.replace(&self.name, &parameters, &lease)).await
    }

    /// Renews the lease until that fails for too long; says why it ended.
    async fn renew(self, leases: Api<Lease>, mut lease: Lease, health: Arc<Health>) -> String {
        let mut renewed = Instant::now();
        let mut pause = RENEWAL;
        loop {
            health.leads();
            sleep(pause).await;
            let began = Instant::now();
            let left = DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.renew_once(&leases, lease.clone())).await {
                Ok(Ok(Some(next))) => (lease, renewed, pause) = (next, began, RENEWAL),
                Ok(Ok(None)) => return "somebody else has taken it".to_owned(),
                Ok(Err(error)) => {
                    tracing::warn!(lease = %self, "the lease could not be renewed: {error}");
                    pause = RENEWAL_RETRY;
                }
                Err(_) => {}
            }
            if renewed.elapsed() >= DEADLINE {
                return format!("it could not be renewed for {} s", DEADLINE.as_secs());
            }
        }
    }

    /// `None` if it is somebody else's by now. Others may have touched the object without taking it, or deleted it.
    async fn renew_once(&self, leases: &Api<Lease>, lease: Lease) -> Result<Option<Lease>, kube::Error> {
        if let Some(renewed) = unless_faster(unless_gone(self.write(leases, lease).await))? {
            return Ok(Some(renewed));
        }
        let Some(current) = patient(leases.get_opt(&self.name)).await? else {
            return unless_faster(self.create(leases).await);
        };
        let holder = current.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(&self.identity) {
            return Ok(None);
        }
        unless_faster(unless_gone(self.write(leases, current).await))
    }
}

/// The lease, held and renewed in the background.
#[derive(Debug)]
pub struct Leadership {
    election: Election,
    leases: Api<Lease>,
    renewal: JoinHandle<String>,
}

impl Leadership {
    /// Done when the lease is lost. Whoever hears of it must write nothing more.
    pub async fn lost(&mut self) -> LeaseError {
        let cause = (&mut self.renewal).await.unwrap_or_else(|error| format!("its renewal failed: {error}"));
        LeaseError::Lost { lease: self.election.to_string(), cause }
    }

    /// Gives the lease back, so that the next one need not wait until it runs out. What fails here is only a delay.
    pub async fn release(self) {
        self.renewal.abort();
        // Nothing is under way any more when this has ended.
        let _ = self.renewal.await;
        let released = timeout(RELEASE, release(&self.election, &self.leases)).await;
        if let Err(error) = released.unwrap_or_else(|_| Err(unanswered())) {
            tracing::warn!(lease = %self.election, "the lease could not be given back and will run out: {error}");
        }
    }
}

async fn release(election: &Election, leases: &Api<Lease>) -> Result<(), kube::Error> {
    let Some(mut lease) = patient(leases.get_opt(&election.name)).await? else { return Ok(()) };
    let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
    if spec.holder_identity.as_deref() != Some(&election.identity) {
        return Ok(());
    }
    spec.holder_identity = Some(String::new());
    spec.renew_time = Some(MicroTime(Timestamp::now()));
    spec.lease_duration_seconds = Some(1);
    patient(leases.replace(&election.name, &PostParams::default(), &lease)).await?;
    tracing::info!(lease = %election, "the lease is given back");
    Ok(())
}

/// An answer within [`PATIENCE`]: a connection that died must not take the time in which another would serve.
async fn patient<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    match timeout(PATIENCE, request).await {
        Ok(answer) => answer,
        Err(_) => Err(unanswered()),
    }
}

fn unanswered() -> kube::Error {
    kube::Error::Service("the API server did not answer in time".into())
}

/// `None` where somebody else was faster.
fn unless_faster<T>(result: Result<Option<T>, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        other => other,
    }
}

/// `None` where the object has been deleted meanwhile.
fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: &str) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Some(MicroTime(renewed.parse().expect("a time"))),
            ..LeaseSpec::default()
        };
        Lease { metadata: ObjectMeta::default(), spec: Some(spec) }
    }

    const LONG_AGO: &str = "2001-01-01T00:00:00Z";

    #[test]
    fn a_lease_runs_out_by_when_it_was_seen_to_change_and_not_by_the_time_written_in_it() {
        let start = Instant::now();
        let seen = Seen::update(None, lease("other", LONG_AGO), start);
        assert_eq!(seen.verdict("me", start + Duration::from_secs(14)), Verdict::Wait);
        let unchanged = Seen::update(Some(seen), lease("other", LONG_AGO), start + Duration::from_secs(14));
        assert_eq!(unchanged.verdict("me", start + Duration::from_secs(15)), Verdict::Take);
    }

    #[test]
    fn a_lease_that_is_renewed_is_somebody_s_for_another_while() {
        let start = Instant::now();
        let seen = Seen::update(None, lease("other", LONG_AGO), start);
        let later = start + Duration::from_secs(14);
        let renewed = Seen::update(Some(seen), lease("other", "2001-01-01T00:00:05Z"), later);
        assert_eq!(renewed.verdict("me", start + Duration::from_secs(28)), Verdict::Wait);
        assert_eq!(renewed.verdict("me", start + Duration::from_secs(29)), Verdict::Take);
    }

    #[test]
    fn a_lease_that_was_given_back_or_is_one_s_own_may_be_taken_at_once() {
        let now = Instant::now();
        assert_eq!(Seen::update(None, lease("", LONG_AGO), now).verdict("me", now), Verdict::Take);
        assert_eq!(Seen::update(None, lease("me", LONG_AGO), now).verdict("me", now), Verdict::Take);
        let empty = Lease { metadata: ObjectMeta::default(), spec: None };
        assert_eq!(Seen::update(None, empty, now).verdict("me", now), Verdict::Take);
    }

    #[test]
    fn its_holder_stops_before_anybody_else_may_take_it() {
        assert!(DEADLINE < DURATION);
        assert!(
            RENEWAL + PATIENCE + RENEWAL_RETRY + PATIENCE < DEADLINE,
            "one request that is lost is not the end"
        );
    }

    #[test]
    fn an_api_server_that_needs_three_seconds_for_an_answer_grants_the_lease() {
        assert!(PATIENCE > Duration::from_secs(3));
    }

    #[test]
    fn a_renewal_keeps_when_it_was_taken_and_a_change_of_hands_is_counted() {
        let taken: Timestamp = LONG_AGO.parse().expect("a time");
        let first = held(None, "me", taken);
        assert_eq!((first.lease_transitions, &first.acquire_time), (Some(0), &Some(MicroTime(taken))));
        let later = taken + jiff::SignedDuration::from_secs(5);
        let renewed = held(Some(&first), "me", later);
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(0), &Some(MicroTime(taken))));
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
        let other = held(Some(&renewed), "other", later);
        assert_eq!((other.lease_transitions, &other.acquire_time), (Some(1), &Some(MicroTime(later))));
    }
}
