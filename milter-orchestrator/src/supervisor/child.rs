//! The life of a spawned child as a table: state × event → next state and what to do.
//!
//! Pure: no process, no clock. The supervisor turns what happens into an [`Event`], asks [`step`],
//! and does the [`Action`]. Every pair is spelled out, so that a new state or event does not
//! compile before all its cells are decided.

use serde::{Deserialize, Serialize};

use crate::member::Readiness;

/// Where a child is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not running, and not meant to.
    Down,
    /// Started; has not answered a negotiation yet.
    Starting,
    /// Answers negotiations.
    Up,
    /// Runs, but has stopped answering.
    Sick,
    /// Killed because it did not answer; its end is awaited.
    Killed,
    /// Told to end for a fresh start that the operator asked for.
    Replacing,
    /// Ended, or could not be started; waits for the next start.
    Backoff,
    /// Told to end for good.
    Stopping,
}

/// What happens to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is wanted.
    Start,
    /// It is wanted, and runs already: an orchestrator before us has started it.
    Adopted,
    /// It could not be started.
    Failed,
    /// Its process ended, however.
    Exited,
    /// It answers: once after a start, twice in a row after a failure.
    Answered,
    /// It does not answer: three times in a row.
    Unanswered,
    /// The time that its state allows has passed: for readiness, for a sign of life, for its end,
    /// or until the next start.
    Overdue,
    /// The operator wants a fresh one.
    Restart,
    /// It is no longer wanted.
    Stop,
}

/// What the supervisor has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Start the process.
    Spawn,
    /// Ask the process group to end (SIGTERM).
    Terminate,
    /// End the process group (SIGKILL).
    Kill,
    /// Count a crash and find out how long to wait.
    Delay,
}

/// The table.
#[must_use]
pub fn step(state: State, event: Event) -> (State, Action) {
    use Action::{Delay, Kill, Nothing, Spawn, Terminate};
    use Event as E;
    use State::{Backoff, Down, Killed, Replacing, Sick, Starting, Stopping, Up};

    match (state, event) {
        (Down, E::Start | E::Restart) => (Starting, Spawn),
        (Down, E::Adopted) => (Starting, Nothing),
        (Down, E::Failed | E::Exited | E::Answered | E::Unanswered | E::Overdue | E::Stop) => {
            (Down, Nothing)
        }

        (Starting, E::Failed | E::Exited) => (Backoff, Delay),
        (Starting, E::Answered) => (Up, Nothing),
        (Starting, E::Overdue) => (Killed, Kill),
        (Starting, E::Restart) => (Replacing, Terminate),
        (Starting, E::Stop) => (Stopping, Terminate),
        (Starting, E::Start | E::Adopted | E::Unanswered) => (Starting, Nothing),

        (Up, E::Failed | E::Exited) => (Backoff, Delay),
        (Up, E::Unanswered) => (Sick, Nothing),
        (Up, E::Restart) => (Replacing, Terminate),
        (Up, E::Stop) => (Stopping, Terminate),
        (Up, E::Start | E::Adopted | E::Answered | E::Overdue) => (Up, Nothing),

        (Sick, E::Failed | E::Exited) => (Backoff, Delay),
        (Sick, E::Answered) => (Up, Nothing),
        (Sick, E::Overdue) => (Killed, Kill),
        (Sick, E::Restart) => (Replacing, Terminate),
        (Sick, E::Stop) => (Stopping, Terminate),
        (Sick, E::Start | E::Adopted | E::Unanswered) => (Sick, Nothing),

        (Killed, E::Failed | E::Exited) => (Backoff, Delay),
        (Killed, E::Overdue) => (Killed, Kill),
        (Killed, E::Stop) => (Stopping, Kill),
        (Killed, E::Restart) => (Replacing, Nothing),
        (Killed, E::Start | E::Adopted | E::Answered | E::Unanswered) => (Killed, Nothing),

        (Replacing, E::Failed | E::Exited) => (Starting, Spawn),
        (Replacing, E::Overdue) => (Replacing, Kill),
        (Replacing, E::Stop) => (Stopping, Nothing),
        (Replacing, E::Start | E::Adopted | E::Answered | E::Unanswered | E::Restart) => {
            (Replacing, Nothing)
        }

        (Backoff, E::Overdue | E::Restart) => (Starting, Spawn),
        (Backoff, E::Stop) => (Down, Nothing),
        (Backoff, E::Start | E::Adopted | E::Failed | E::Exited | E::Answered | E::Unanswered) => {
            (Backoff, Nothing)
        }

        (Stopping, E::Failed | E::Exited) => (Down, Nothing),
        (Stopping, E::Overdue) => (Stopping, Kill),
        (Stopping, E::Start | E::Adopted | E::Answered | E::Unanswered | E::Restart | E::Stop) => {
            (Stopping, Nothing)
        }
    }
}

impl State {
    /// What the proxy is to believe about a child in this state.
    ///
    /// Its socket is ours, so connections queue while it starts anew and waiting is cheaper than
    /// deferring mail. Not so when it runs without answering, or crashes again and again.
    #[must_use]
    pub fn readiness(self, breaker_open: bool) -> Readiness {
        match self {
            Self::Up => Readiness::Ready,
            Self::Sick | Self::Killed => Readiness::Open,
            Self::Down | Self::Starting | Self::Replacing | Self::Backoff | Self::Stopping => {
                if breaker_open {
                    Readiness::Open
                } else {
                    Readiness::Down
                }
            }
        }
    }

    /// Whether negotiations are worth trying.
    #[must_use]
    pub fn is_probed(self) -> bool {
        matches!(self, Self::Starting | Self::Up | Self::Sick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table as text: one line a state, one column an event, in the order of the enums;
    /// in a cell the first letters of the next state, and that of the action if there is one.
    const TABLE: &str = "
state start  adopted failed exited answered unanswered overdue restart stop
Down  Star/S Star    Down   Down   Down     Down       Down    Star/S  Down
Star  Star   Star    Back/D Back/D Up       Star       Kill/K  Repl/T  Stop/T
Up    Up     Up      Back/D Back/D Up       Sick       Up      Repl/T  Stop/T
Sick  Sick   Sick    Back/D Back/D Up       Sick       Kill/K  Repl/T  Stop/T
Kill  Kill   Kill    Back/D Back/D Kill     Kill       Kill/K  Repl    Stop/K
Repl  Repl   Repl    Star/S Star/S Repl     Repl       Repl/K  Repl    Stop
Back  Back   Back    Back   Back   Back     Back       Star/S  Star/S  Down
Stop  Stop   Stop    Down   Down   Stop     Stop       Stop/K  Stop    Stop
";

    /// The first letters of a state's name.
    fn short(state: State) -> String {
        format!("{state:?}").chars().take(4).collect()
    }

    const STATES: [State; 8] = [
        State::Down,
        State::Starting,
        State::Up,
        State::Sick,
        State::Killed,
        State::Replacing,
        State::Backoff,
        State::Stopping,
    ];

    const EVENTS: [Event; 9] = [
        Event::Start,
        Event::Adopted,
        Event::Failed,
        Event::Exited,
        Event::Answered,
        Event::Unanswered,
        Event::Overdue,
        Event::Restart,
        Event::Stop,
    ];

    #[test]
    fn every_cell_is_as_the_table_says() {
        let rows: Vec<&str> = TABLE.trim().lines().skip(1).collect();
        assert_eq!(rows.len(), STATES.len());
        for (state, row) in STATES.into_iter().zip(rows) {
            let mut cells = row.split_whitespace();
            assert_eq!(cells.next(), Some(short(state).as_str()));
            let cells: Vec<&str> = cells.collect();
            assert_eq!(cells.len(), EVENTS.len(), "{row}");
            for (event, cell) in EVENTS.into_iter().zip(cells) {
                let (next, action) = step(state, event);
                let letter = match action {
                    Action::Nothing => "",
                    Action::Spawn => "/S",
                    Action::Terminate => "/T",
                    Action::Kill => "/K",
                    Action::Delay => "/D",
                };
                assert_eq!(short(next) + letter, cell, "{state:?} × {event:?}");
            }
        }
    }

    /// From every state, a stop followed by what must come ends in `Down`: nothing is left running.
    #[test]
    fn a_stop_always_ends_down() {
        for state in STATES {
            let (after_stop, _) = step(state, Event::Stop);
            let (late, action) = step(after_stop, Event::Overdue);
            if after_stop == State::Stopping {
                assert_eq!(action, Action::Kill, "{state:?}");
            }
            assert_eq!(step(late, Event::Exited).0, State::Down, "{state:?}");
        }
    }

    #[test]
    fn only_a_child_that_answers_is_ready_and_only_hopeless_ones_are_not_tried() {
        for state in STATES {
            for open in [false, true] {
                let expected = match (state, open) {
                    (State::Up, _) => Readiness::Ready,
                    (State::Sick | State::Killed, _) | (_, true) => Readiness::Open,
                    (_, false) => Readiness::Down,
                };
                assert_eq!(state.readiness(open), expected, "{state:?} {open}");
            }
        }
    }
}
