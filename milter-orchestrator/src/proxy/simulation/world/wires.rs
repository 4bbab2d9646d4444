//! The bytes between the session and the filters: connections, what is told, what is answered.

use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use milter_proto::wire::{Command, Decoder, Reply};

use super::World;
use crate::proxy::child::{ChildError, Link};
use crate::proxy::simulation::check::{Result, Violation, require};
use crate::proxy::simulation::filter::{Attempt, Faults, Lapse, Line};
use crate::proxy::simulation::letter::{Letter, name_in};
use crate::proxy::simulation::plan::Sabotage;

/// Commands that wait for one filter at most: what one event makes.
const QUEUE_MAX: usize = 8;

/// Bytes under way to a filter before the proxy has to wait.
const PIPE_MAX: usize = 16 * 1024;

impl World {
    /// Brings a connection to a filter in line with what the session wants.
    pub(super) fn dial(&mut self, number: usize, index: usize) -> bool {
        let lane = &mut self.lanes[number];
        let Some(child) = lane.session.children().get(index) else {
            return false;
        };
        let generation = child.generation;
        let known = lane.lines[index].as_ref().map(|line| line.generation);
        match child.link {
            Link::Dialling(_) if known != Some(generation) => {
                keep(&mut lane.attempts[index], lane.lines[index].take());
                let line = Line::new(index, generation, self.now);
                lane.lines[index] = Some(line);
                lane.session.connected(index, self.now);
                self.tell(|| format!("{number}: connects to filter {index}"));
                true
            }
            Link::Leaving if child.out.is_empty() => {
                let _ = lane.session.left(index);
                keep(&mut lane.attempts[index], lane.lines[index].take());
                true
            }
            Link::Idle | Link::Failed if known.is_some() => {
                keep(&mut lane.attempts[index], lane.lines[index].take());
                true
            }
            _ => false,
        }
    }

    /// What the session tells a filter goes on its way.
    pub(super) fn write(&mut self, number: usize, index: usize) -> Result<bool> {
        let mut moved = false;
        loop {
            let lane = &mut self.lanes[number];
            let current = lane
                .session
                .children()
                .get(index)
                .map(|child| child.generation);
            let Some(line) = lane.lines[index].as_mut() else {
                break;
            };
            if current != Some(line.generation) || line.to.len() > PIPE_MAX {
                break;
            }
            let Some(command) = lane.session.next_command(index, self.now) else {
                break;
            };
            let waiting = lane.session.children()[index].out.len();
            require(7, waiting <= QUEUE_MAX, || {
                format!("{waiting} commands wait")
            })?;
            let mut bytes = BytesMut::new();
            let encoded = command.encode(&mut bytes);
            encoded.map_err(|error| Violation::new(2, error.to_string()))?;
            if self.plan.sabotage == Some(Sabotage::Altered)
                && matches!(command, Command::Body(_))
                && let Some(last) = bytes.last_mut()
            {
                *last ^= 1;
            }
            let late = self.now + Duration::from_micros(self.chance.below(3) * 300);
            line.to.push(bytes.freeze(), late, &mut self.chance);
            self.tell(|| format!("{number}: filter {index} <- {command:?}"));
            moved = true;
        }
        Ok(moved)
    }

    /// A filter reads what has arrived, and answers.
    pub(super) fn read(&mut self, number: usize, index: usize) -> Result<bool> {
        let mut moved = false;
        loop {
            let process = &self.processes[index];
            let Some(line) = self.lanes[number].lines[index].as_mut() else {
                break;
            };
            if !process.works() || line.from.is_cut() {
                break;
            }
            line.accepted = true;
            let Some(command) = line.next_command(self.now)? else {
                break;
            };
            moved = true;
            let name = match &command {
                Command::Mail(path) => name_in(&path.address).map(str::to_owned),
                _ => line.attempt.as_ref().map(|attempt| attempt.message.clone()),
            };
            let letter = name.and_then(|name| self.letters.get(&name)).cloned();
            let faults = match self.plan.script {
                None => Faults::Rates(&self.plan.rates),
                Some(script) => {
                    let due = self.outcomes.is_empty() && (script.always || !self.scripted);
                    Faults::Script(Some(script).filter(|script| due && script.filter == index))
                }
            };
            let chance = (self.now, &mut self.chance);
            let heard = line.hear(command, process, letter.as_deref(), &faults, chance)?;
            let Some(lapse) = heard.lapse else { continue };
            self.scripted = true;
            self.figures.lapses += 1;
            self.tell(|| format!("{number}: filter {index} fails: {lapse:?}"));
            self.processes[index].trouble = Some(self.now);
            match lapse {
                Lapse::Killed => self.kill(index, letter.filter(|_| heard.by_poison))?,
                Lapse::Stopped => self.processes[index].stop(self.now),
                _ => {}
            }
        }
        Ok(moved)
    }

    pub(super) fn kill(&mut self, index: usize, poison: Option<Rc<Letter>>) -> Result<()> {
        self.processes[index].end(self.now, &mut self.chance);
        let readiness = self.processes[index].readiness();
        self.members[index].health.set_readiness(readiness);
        self.cut(index);
        self.tell_state(index);
        if let Some(letter) = poison {
            let kills = self.kills.entry(letter.name.clone()).or_default();
            *kills += 1;
            let (kills, content) = (*kills, letter.kills_in_content());
            // Between other faults it may not be the message's own fault that counts.
            // One crash of a message that the MTA gives up is not remembered.
            let gives_up = self.plan.aborts + self.plan.vanishes > 0;
            let sure = self.plan.only_poison && content && !gives_up && !self.is_mixed(index);
            require(9, !sure || kills <= 2, || {
                format!("{} kills filter {index} for the {kills}. time", letter.name)
            })?;
        }
        Ok(())
    }

    /// What a filter says arrives.
    pub(super) fn answer(&mut self, number: usize, index: usize) -> bool {
        let now = self.now;
        let lane = &mut self.lanes[number];
        let Some(child) = lane.session.children().get(index) else {
            return false;
        };
        let (stage, generation) = (child.stage(), child.generation);
        let up = matches!(
            child.link,
            Link::Negotiating(..) | Link::Up(_) | Link::Leaving
        );
        let Some(line) = lane.lines[index].as_mut() else {
            return false;
        };
        if !up || line.generation != generation {
            return false;
        }
        let Some(piece) = line.from.due(now) else {
            return false;
        };
        let Some(piece) = piece else {
            keep(&mut lane.attempts[index], lane.lines[index].take());
            let error = ChildError::Closed(stage);
            lane.session.lost(index, &error, now);
            self.tell(|| format!("{number}: filter {index} has closed at {stage:?}"));
            return true;
        };
        line.heard.extend_from_slice(&piece);
        let mut replies = Vec::new();
        let broken = loop {
            match Decoder::default().decode(&mut line.heard) {
                Ok(Some(frame)) => match Reply::parse(frame) {
                    Ok(reply) => replies.push(reply),
                    Err(error) => break Some(error),
                },
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let more = !line.heard.is_empty();
        let said = self
            .story
            .is_some()
            .then(|| format!("{replies:?} {broken:?}"));
        match broken {
            Some(error) => lane.session.untold(index, error, now),
            None => lane.session.replies(index, replies, more, now),
        }
        self.tell(|| format!("{number}: filter {index} -> {}", said.unwrap_or_default()));
        true
    }
}

/// Keeps what a filter was told of the message on a connection that is gone.
fn keep(kept: &mut Option<Attempt>, line: Option<Line>) {
    if let Some(attempt) = line.and_then(|line| line.attempt) {
        *kept = Some(attempt);
    }
}
