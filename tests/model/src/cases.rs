//! Known faults, each a case with a name: what went wrong in other systems, or in this one before.

#![cfg(test)]

use crate::world::next;
use crate::{
    cluster::Cluster,
    mutant::Mutant,
    operator::{Now, Operator, Step},
    store::{Kind, Message, Outcome, PRESENT_EPOCH_PAUSE, Queue, SEND_AGAIN, SETTLED_AFTER},
};
use kubenova_core::{command::CommandState, session::HelloRefusal, superseded};

const KEY: u64 = 0;

/// A database and a cluster without trouble between them.
#[derive(Debug, Clone, Default)]
struct Pair {
    queue: Queue,
    cluster: Cluster,
    operator: Operator,
    /// One that was paused while the first took over, or the other way round.
    other: Operator,
    /// The rule that is switched off in the other one.
    mutant: Option<Mutant>,
    now: i64,
    next_id: u64,
}

impl Pair {
    fn in_session() -> Self {
        let mut pair = Self::default();
        pair.hello().unwrap();
        pair
    }

    fn hello(&mut self) -> Result<u64, HelloRefusal> {
        let (revision, command) = self.cluster.highest();
        let epoch = self.operator.named_epoch(&self.cluster, None);
        let session = self.queue.hello(revision, command, epoch, self.now)?;
        self.operator.watch(&self.cluster);
        self.operator.open(&mut self.cluster, session, self.queue.epoch);
        Ok(session)
    }

    fn request(&mut self, kind: Kind) -> u64 {
        let id = next(&mut self.next_id);
        self.queue.enqueue(id, KEY, kind);
        id
    }

    /// Requests a change and returns its message, sent but not delivered.
    fn sent(&mut self, kind: Kind) -> Message {
        let id = self.request(kind);
        self.claim().into_iter().find(|message| message.id == id).unwrap()
    }

    fn claim(&mut self) -> Vec<Message> {
        self.queue.claim(self.now)
    }

    /// The cluster takes a message; what it says of it.
    fn deliver(&mut self, message: &Message) -> Option<Outcome> {
        let now = self.undisturbed();
        self.operator.receive_all(&mut self.cluster, message, now)
    }

    fn work(&mut self, key: u64) -> Option<Outcome> {
        let now = self.undisturbed();
        self.operator.work_all(&mut self.cluster, key, now)
    }

    /// The other Operator begins to carry out the record, and is paused after so many calls.
    fn other_works(&mut self, key: u64, calls: usize) {
        self.other.work(key);
        self.other_goes_on(calls);
    }

    fn other_goes_on(&mut self, calls: usize) {
        let now = self.of_other();
        for _ in 0..calls {
            assert_eq!(self.other.step(&mut self.cluster, now), Step::More);
        }
    }

    fn other_ends(&mut self) -> Option<Outcome> {
        let now = self.of_other();
        self.other.finish(&mut self.cluster, now)
    }

    /// What a step of the other Operator knows: one rule is switched off in it, perhaps.
    const fn of_other(&self) -> Now {
        Now { at: self.now, mutant: self.mutant }
    }

    const fn undisturbed(&self) -> Now {
        Now { at: self.now, mutant: None }
    }

    /// Delivers a message, carries it out and records everything that the cluster says.
    fn carry_out(&mut self, message: &Message) {
        let mut outcomes: Vec<Outcome> = self.deliver(message).into_iter().collect();
        // To begin, and to find that it is done.
        for _ in 0..3 {
            outcomes.extend(self.work(message.key));
        }
        for outcome in outcomes {
            self.record(&outcome);
        }
    }

    fn record(&mut self, outcome: &Outcome) -> bool {
        self.queue.record(outcome, self.now, || next(&mut self.next_id))
    }

    fn done(&mut self, kind: Kind) -> Message {
        let message = self.sent(kind);
        self.carry_out(&message);
        assert_eq!(self.state(message.id), CommandState::Succeeded);
        message
    }

    /// Requests an operation that must begin within a minute, and returns its message, sent but not delivered.
    fn operation(&mut self) -> Message {
        let id = next(&mut self.next_id);
        self.queue.operate(id, self.now + 60);
        self.claim().remove(0)
    }

    /// Cancels it, and returns what is sent then.
    fn cancel(&mut self, operation: &Message) -> Vec<Message> {
        self.queue.cancel_operation(operation.id, || next(&mut self.next_id));
        self.claim()
    }

    fn times(&self, operation: &Message) -> usize {
        self.cluster.effects.iter().filter(|effect| effect.id == operation.id).count()
    }

    fn state(&self, id: u64) -> CommandState {
        self.queue.rows.values().find(|row| row.id == id).unwrap().state
    }

    fn restore_cluster(&mut self, earlier: &Cluster) {
        self.cluster.restore(earlier);
        self.operator = Operator::default();
    }

    fn compare(&mut self) -> usize {
        self.now += SETTLED_AFTER;
        self.queue.compare(&self.cluster.listing(), || next(&mut self.next_id), self.now, false)
    }

    fn object(&self) -> Option<u64> {
        self.cluster.objects.get(&KEY).map(|object| object.document)
    }
}

fn superseded(message: &Message) -> Outcome {
    Outcome { id: message.id, epoch: message.epoch, state: Some(CommandState::Superseded) }
}

#[test]
fn what_is_replaced_before_it_is_sent_is_never_sent() {
    let mut pair = Pair::in_session();
    let (first, second) = (pair.request(Kind::Apply), pair.request(Kind::Apply));
    assert_eq!(pair.claim().iter().map(|message| message.id).collect::<Vec<_>>(), [second]);
    assert_eq!(pair.state(first), CommandState::Superseded);
}

#[test]
fn a_cancel_behind_a_partition_ends_nothing_and_the_previous_document_wins_whenever_the_message_arrives() {
    let mut pair = Pair::in_session();
    let first = pair.done(Kind::Apply);
    let late = pair.sent(Kind::Apply);
    assert!(!pair.queue.cancel(late.id), "it was sent: only the cluster can say what became of it");
    // What the person does instead: the previous document again, which here is a new command.
    let again = pair.sent(Kind::Apply);
    pair.carry_out(&again);
    assert_eq!(pair.deliver(&late), Some(superseded(&late)), "the partition has healed");
    assert_eq!((pair.object(), pair.state(late.id)), (Some(again.id), CommandState::Superseded));
    assert_ne!(pair.object(), Some(first.id));
}

#[test]
fn a_cancel_before_the_send_is_exact() {
    let mut pair = Pair::in_session();
    let id = pair.request(Kind::Apply);
    assert!(pair.queue.cancel(id));
    assert_eq!((pair.claim(), pair.state(id)), (Vec::new(), CommandState::Cancelled));
}

#[test]
fn delete_and_recreate_end_as_asked_in_whatever_order_the_messages_arrive() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let mut pair = Pair::in_session();
        let messages = [pair.sent(Kind::Apply), pair.sent(Kind::Delete), pair.sent(Kind::Apply)];
        for at in order {
            pair.carry_out(&messages[at]);
        }
        assert_eq!(pair.object(), Some(messages[2].id), "{order:?}");
        assert!(messages.iter().all(|message| pair.state(message.id).is_terminal()), "{order:?}");
    }
}

#[test]
fn an_old_signed_document_that_is_replayed_changes_nothing() {
    let mut pair = Pair::in_session();
    let (old, new) = (pair.done(Kind::Apply), pair.done(Kind::Apply));
    let effects = pair.cluster.effects.len();
    assert_eq!(pair.deliver(&old), Some(superseded(&old)));
    assert!(!pair.record(&superseded(&old)), "it has ended");
    assert_eq!((pair.object(), pair.cluster.effects.len()), (Some(new.id), effects));
}

#[test]
fn an_edit_after_a_restore_of_the_database_reaches_no_cluster_that_holds_more() {
    let mut pair = Pair::in_session();
    pair.done(Kind::Apply);
    let backup = pair.queue.clone();
    let lost = pair.done(Kind::Apply);
    pair.queue.restore(&backup);
    let edit = pair.request(Kind::Apply);
    assert!(!pair.queue.confirmed, "nothing is sent before a hello");
    assert_eq!(pair.hello(), Err(HelloRefusal::Diverged), "revision {} is another command here", lost.revision);
    assert_eq!((pair.state(edit), pair.object()), (CommandState::Queued, Some(lost.id)));
}

#[test]
fn after_a_restore_of_the_database_the_lost_change_is_adopted_and_a_later_edit_is_sent_after_it() {
    let mut pair = Pair::in_session();
    pair.done(Kind::Apply);
    let backup = pair.queue.clone();
    let lost = pair.done(Kind::Apply);
    pair.queue.restore(&backup);
    for edited in [false, true] {
        let mut pair = pair.clone();
        let edit = edited.then(|| pair.request(Kind::Apply));
        assert_eq!(pair.hello(), Err(HelloRefusal::Diverged));
        let held = pair.cluster.records.iter().map(|(key, record)| (*key, record.message.clone())).collect();
        pair.queue.adopt(&held, 1, || next(&mut pair.next_id));
        pair.hello().unwrap();
        for message in pair.claim() {
            pair.carry_out(&message);
        }
        assert_eq!((pair.object(), pair.queue.epoch), (Some(edit.unwrap_or(lost.id)), 2));
        assert_eq!(pair.state(lost.id), CommandState::Succeeded, "its replay says so");
        assert_eq!((pair.cluster.effects.len(), pair.queue.floor()), (2 + usize::from(edited), pair.queue.counter));
    }
}

#[test]
fn a_delete_that_a_restore_of_the_cluster_lost_is_issued_again() {
    let mut pair = Pair::in_session();
    pair.done(Kind::Apply);
    let backup = pair.cluster.clone();
    pair.done(Kind::Delete);
    pair.restore_cluster(&backup);
    pair.hello().unwrap();
    assert!(pair.object().is_some());
    assert_eq!(pair.compare(), 1);
    let again = pair.claim().remove(0);
    pair.carry_out(&again);
    assert_eq!((pair.object(), pair.compare()), (None, 0));
}

#[test]
fn a_running_command_that_a_restore_of_the_cluster_lost_is_sent_at_its_next_hello() {
    let mut pair = Pair::in_session();
    let backup = pair.cluster.clone();
    let lost = pair.sent(Kind::Apply);
    let acknowledged = pair.deliver(&lost).unwrap();
    pair.record(&acknowledged);
    assert_eq!(pair.state(lost.id), CommandState::Acknowledged);
    pair.hello().unwrap();
    assert_eq!(pair.claim(), [], "the cluster has it");
    pair.restore_cluster(&backup);
    pair.hello().unwrap();
    let again = pair.claim().remove(0);
    pair.carry_out(&again);
    assert_eq!((again.id, pair.object()), (lost.id, Some(lost.id)));
    assert_eq!(pair.claim(), [], "once a session");
}

#[test]
fn a_command_that_two_operators_take_is_carried_out_once_and_only_the_newer_session_counts() {
    let mut pair = Pair::in_session();
    let first = pair.queue.session;
    let second = pair.hello().unwrap();
    assert!(!pair.queue.counts(first, 0, 0) && pair.queue.counts(second, 0, 0));
    let message = pair.sent(Kind::Apply);
    pair.carry_out(&message);
    // The other process has the same message, and sees the record of the first.
    pair.carry_out(&message);
    assert_eq!(pair.cluster.effects.len(), 1);
}

#[test]
fn a_refused_hello_ends_no_session() {
    let mut pair = Pair::in_session();
    let session = pair.queue.session;
    assert_eq!(pair.queue.hello(7, 7, 0, 0), Err(HelloRefusal::Diverged));
    assert!(pair.queue.confirmed && pair.queue.counts(session, 0, 0));
}

#[test]
fn a_verdict_of_an_older_epoch_has_the_command_sent_again_under_the_present_one() {
    let mut pair = Pair::in_session();
    let old = pair.sent(Kind::Apply);
    pair.queue.enroll_again();
    pair.record(&superseded(&old));
    assert_eq!(pair.state(old.id), CommandState::Sent);
    pair.now += PRESENT_EPOCH_PAUSE;
    let again = pair.claim().remove(0);
    assert_eq!((again.id, again.epoch), (old.id, old.epoch + 1));
    pair.carry_out(&again);
    assert_eq!(pair.object(), Some(old.id));
}

#[test]
fn a_verdict_of_a_history_that_was_lost_ends_nothing() {
    let mut pair = Pair::in_session();
    let message = pair.sent(Kind::Apply);
    let backup = pair.queue.clone();
    let newer = pair.sent(Kind::Apply);
    pair.carry_out(&newer);
    let verdict = pair.deliver(&message).unwrap();
    assert_eq!(verdict, superseded(&message));
    // Both sides are restored, and the verdict is still on its way.
    pair.queue.restore(&backup);
    pair.restore_cluster(&Cluster::default());
    pair.hello().unwrap();
    // The cluster stores the command before the verdict arrives, and names its revision in the next hello.
    pair.now += SEND_AGAIN;
    let again = pair.claim().remove(0);
    assert_eq!(pair.deliver(&again).unwrap().state, Some(CommandState::Acknowledged), "its report is lost");
    pair.record(&verdict);
    assert_eq!(pair.hello(), Ok(pair.queue.session));
    pair.now += superseded::PAUSE_MIN.as_secs();
    let successor = pair.claim().remove(0);
    pair.carry_out(&successor);
    assert_eq!((pair.object(), pair.state(successor.id)), (Some(message.document), CommandState::Succeeded));
}

#[test]
fn a_floor_of_a_history_that_was_lost_does_not_keep_a_command_out_for_ever() {
    let mut pair = Pair::in_session();
    let waiting = pair.request(Kind::Apply);
    let backup = pair.queue.clone();
    // In the history that is lost it was replaced before it was sent, and the floor rose above it.
    pair.request(Kind::Apply);
    pair.cluster.fence = Some((1, 1));
    pair.queue.restore(&backup);
    pair.hello().unwrap();
    let message = pair.claim().remove(0);
    let verdict = pair.deliver(&message).unwrap();
    assert_eq!(verdict, superseded(&message));
    pair.record(&verdict);
    pair.now += SEND_AGAIN.max(superseded::PAUSE_MIN.as_secs());
    let again = pair.claim().remove(0);
    assert!(again.revision > message.revision);
    pair.carry_out(&again);
    let ended = (pair.state(waiting), pair.state(again.id));
    assert_eq!((pair.object(), ended), (Some(waiting), (CommandState::Superseded, CommandState::Succeeded)));
}

#[test]
fn an_operation_that_is_cancelled_behind_a_partition_never_happens_whenever_its_message_arrives() {
    let mut pair = Pair::in_session();
    let operation = pair.operation();
    let cancellation = pair.cancel(&operation).remove(0);
    pair.now += SEND_AGAIN + 1;
    let again: Vec<u64> = pair.claim().iter().map(|message| message.id).collect();
    assert_eq!(again, [cancellation.id], "the operation is not sent again beside it");
    pair.carry_out(&cancellation);
    assert_eq!(pair.state(operation.id), CommandState::Cancelled);
    assert_eq!(pair.deliver(&operation).unwrap().state, Some(CommandState::Cancelled), "the partition has healed");
    assert_eq!(pair.times(&operation), 0);
}

#[test]
fn a_cancellation_that_comes_after_the_beginning_is_refused_and_the_operation_ends_as_it_does() {
    let mut pair = Pair::in_session();
    let operation = pair.operation();
    pair.deliver(&operation);
    pair.work(operation.key);
    let cancellation = pair.cancel(&operation).remove(0);
    pair.carry_out(&cancellation);
    assert_eq!(pair.state(cancellation.id), CommandState::Refused);
    pair.carry_out(&operation);
    assert_eq!((pair.state(operation.id), pair.times(&operation)), (CommandState::Succeeded, 1));
}

#[test]
fn an_operation_does_not_begin_after_its_deadline_wherever_it_waited() {
    // At the Manager.
    let mut pair = Pair::in_session();
    let id = next(&mut pair.next_id);
    pair.queue.operate(id, pair.now + 60);
    pair.now += 61;
    assert_eq!(pair.claim(), []);
    pair.queue.expire(pair.now);
    assert_eq!(pair.state(id), CommandState::Expired);
    // On the wire.
    let operation = pair.operation();
    pair.now += 61;
    pair.queue.expire(pair.now);
    assert_eq!(pair.state(operation.id), CommandState::Sent, "only the cluster knows");
    pair.carry_out(&operation);
    assert_eq!((pair.state(operation.id), pair.times(&operation)), (CommandState::Expired, 0));
    // In the inbox of an Operator that is away.
    let operation = pair.operation();
    pair.deliver(&operation);
    pair.now += 61;
    pair.carry_out(&operation);
    assert_eq!((pair.state(operation.id), pair.times(&operation)), (CommandState::Expired, 0));
}

#[test]
fn a_repeated_operation_reports_again_and_happens_once() {
    let mut pair = Pair::in_session();
    let operation = pair.operation();
    for _ in 0..3 {
        pair.carry_out(&operation);
    }
    assert_eq!((pair.state(operation.id), pair.times(&operation)), (CommandState::Succeeded, 1));
}

/// The same with and without the rule, for what hardly any seed comes upon.
fn with_and_without(mutant: Mutant, holds: impl Fn(Pair) -> bool) {
    assert!(holds(Pair::in_session()));
    let without = Pair { mutant: Some(mutant), ..Pair::in_session() };
    assert!(!holds(without), "{mutant:?} is not noticed");
}

/// An Operator is paused after so many calls for a command of this kind, while another stores and carries out a later one: the object is
/// what the later one asks for.
fn the_later_one_stands(mutant: Mutant, kind: Kind, calls: usize) {
    with_and_without(mutant, |mut pair| {
        pair.done(Kind::Apply);
        let old = pair.sent(kind);
        pair.deliver(&old);
        pair.other_works(KEY, calls);
        let new = pair.done(Kind::Apply);
        pair.other_ends();
        pair.object() == Some(new.id)
    });
}

#[test]
fn a_paused_operator_writes_nothing_for_a_command_that_another_has_replaced() {
    // It has read the record, and not the object.
    the_later_one_stands(Mutant::WritesOverLater, Kind::Apply, 1);
}

#[test]
fn a_paused_operator_deletes_nothing_for_a_delete_that_another_has_replaced() {
    the_later_one_stands(Mutant::WritesOverLater, Kind::Delete, 1);
}

#[test]
fn what_a_paused_operator_writes_is_a_conflict_once_another_has_written() {
    // It has read record and object.
    the_later_one_stands(Mutant::WritesOverAny, Kind::Apply, 2);
}

#[test]
fn what_was_created_late_is_not_taken_back_once_another_has_written_it() {
    with_and_without(Mutant::TakesBackAny, |mut pair| {
        let old = pair.sent(Kind::Apply);
        pair.deliver(&old);
        // It has read the record, seen that the object is absent, and created it.
        pair.other_works(KEY, 3);
        let delete = pair.sent(Kind::Delete);
        pair.deliver(&delete);
        // It sees that the record is of a delete by now.
        pair.other_goes_on(1);
        let new = pair.done(Kind::Apply);
        pair.other_ends();
        pair.object() == Some(new.id)
    });
}

#[test]
fn a_command_that_was_stored_in_time_has_not_expired_for_an_operator_that_takes_it_late() {
    with_and_without(Mutant::AnsweredUnread, |mut pair| {
        let operation = pair.operation();
        pair.deliver(&operation);
        pair.work(operation.key);
        pair.now += 61;
        let now = pair.of_other();
        let answer = pair.other.receive_all(&mut pair.cluster, &operation, now).unwrap();
        answer.state == Some(CommandState::Running)
    });
}

#[test]
fn an_operation_that_one_operator_has_begun_does_not_expire_by_the_clock_of_another() {
    with_and_without(Mutant::ExpiresWhatBegan, |mut pair| {
        let operation = pair.operation();
        pair.deliver(&operation);
        // By its measurement of the Manager's clock the deadline has passed.
        pair.now += 61;
        pair.other_works(operation.key, 1);
        pair.now -= 2;
        pair.work(operation.key);
        pair.other_ends();
        pair.carry_out(&operation);
        (pair.state(operation.id), pair.times(&operation)) == (CommandState::Succeeded, 1)
    });
}

#[test]
fn a_hello_names_the_epoch_that_another_operator_has_raised() {
    with_and_without(Mutant::NamesEpochOfStart, |mut pair| {
        // It has read the fence.
        pair.other.named_epoch(&pair.cluster, None);
        let backup = pair.queue.clone();
        pair.queue.enroll_again();
        pair.hello().unwrap();
        pair.queue.restore(&backup);
        let epoch = pair.other.named_epoch(&pair.cluster, pair.mutant);
        pair.queue.hello(0, 0, epoch, pair.now) == Err(HelloRefusal::Diverged)
    });
}

#[test]
fn an_operation_that_was_carried_out_and_forgotten_is_not_begun_again() {
    with_and_without(Mutant::BeginsSettled, |mut pair| {
        let operation = pair.operation();
        // The other Operator has found no record, and is paused before it stores one.
        let now = pair.of_other();
        pair.other.receive(&pair.cluster, operation.clone(), now);
        pair.other_goes_on(1);
        pair.carry_out(&operation);
        pair.done(Kind::Apply);
        pair.done(Kind::Apply);
        pair.operator.prune(&mut pair.cluster);
        assert!(!pair.cluster.records.contains_key(&operation.key));
        pair.other_ends();
        let now = pair.of_other();
        pair.operator.work_all(&mut pair.cluster, operation.key, now);
        pair.times(&operation) == 1
    });
}
