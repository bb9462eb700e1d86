//! When what failed is tried again.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::tracking::steady;
use crate::plan::fact::Failure;
use crate::plan::retry::Attempt;
use crate::plan::task::{Epoch, Task};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

#[test]
fn those_who_fail_together_come_back_one_after_the_other_and_none_before_its_time() {
    let task = Task::CheckSecrets { epoch: Epoch::default() };
    let attempt = Attempt { count: 1, transient: true, asked: Some(secs(60)) };
    let at = |image: u32| task.retry_at(NOW, attempt, &format!("uid-{image}"));
    let times: Vec<Timestamp> = (0..1000).map(at).collect();
    assert!(times.iter().all(|at| (secs(60)..=secs(75)).contains(&at.duration_since(NOW))));
    let seconds: BTreeSet<i64> = times.iter().map(|at| at.as_second()).collect();
    assert_eq!(seconds.len(), 15, "every second has its share");
    assert_eq!(at(7), at(7), "the same failure gives the same time");
}

#[test]
fn waits_double_up_to_their_limit_and_are_never_shorter_than_what_was_asked_for() {
    let transient = [1, 2, 5, 9].map(|count| Failure::retry_after(true, count, None));
    assert_eq!(transient, [1, 2, 16, 60].map(secs));
    let lasting = [1, 5, 9].map(|count| Failure::retry_after(false, count, None));
    assert_eq!(lasting, [10, 160, 300].map(secs));
    assert_eq!(Failure::retry_after(true, 1, Some(secs(30))), secs(30));
    assert_eq!(Failure::retry_after(true, 1, Some(secs(999_999))), secs(3600));
}

#[test]
fn while_a_registry_is_down_a_published_image_is_looked_at_ever_more_rarely_and_then_at_its_moments() {
    let mut scene = steady();
    scene.run();
    scene.wait();
    let looks = scene.plan().tasks.into_iter().find(|task| matches!(task, Task::Check { .. }));
    let look = looks.expect("a look");
    let moment = look.repeat_at(scene.now).expect("the next look");
    let failed = |count, asked| look.retry_at(scene.now, Attempt { count, transient: true, asked }, "uid");
    let early: Vec<Timestamp> = (1..5).map(|count| failed(count, None)).collect();
    assert!(early.is_sorted() && early.iter().all(|at| *at < moment), "{early:?}");
    assert_eq!(failed(100, None), moment, "as rarely as when it does not fail");
    assert!(failed(100, Some(secs(3600))) >= scene.now + secs(3600), "who asks is left alone");
}
