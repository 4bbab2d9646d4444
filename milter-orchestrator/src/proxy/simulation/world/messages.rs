//! What MTAs say and hear, and what must hold of each message.

use std::rc::Rc;
use std::time::{Duration, Instant};

use milter_proto::edit::Edit;
use milter_proto::verdict::Verdict;
use milter_proto::wire::{Command, Reply, Steps};

use super::{Lane, Outcome, World};
use crate::counters::Crash;
use crate::proxy::simulation::check::{self, Result, Violation, Witness};
use crate::proxy::simulation::filter::{Attempt, Process};
use crate::proxy::simulation::letter::Letter;
use crate::proxy::simulation::mta::Fate;
use crate::proxy::simulation::plan::Sabotage;

impl World {
    /// The MTA hears what the session says.
    pub(super) fn hear(&mut self, number: usize) -> Result<bool> {
        let mut moved = false;
        while let Some(reply) = self.lanes[number].session.next_reply() {
            moved = true;
            for reply in self.falsified(reply) {
                self.tell(|| format!("{number}: MTA <- {reply:?}"));
                if self.lanes[number].mta.is_gone() {
                    continue;
                }
                if let Some(fate) = self.lanes[number].mta.hear(reply, self.now)? {
                    self.decided(number, fate)?;
                }
            }
        }
        self.lanes[number].mta.check_patience(self.now)?;
        Ok(moved)
    }

    /// What a faulty double makes of a reply.
    fn falsified(&mut self, reply: Reply) -> Vec<Reply> {
        let is_word = !matches!(
            reply,
            Reply::Progress | Reply::Edit(_) | Reply::Negotiate(_)
        );
        match (self.plan.sabotage, &reply) {
            (Some(Sabotage::SecondWord), _) if is_word => vec![reply.clone(), reply],
            (Some(Sabotage::WrongReply), Reply::Continue) => vec![Reply::Shutdown],
            (Some(Sabotage::Unseen), Reply::TempFail | Reply::Reject) => vec![Reply::Continue],
            (Some(Sabotage::Leak), Reply::Edit(edit)) => {
                let before = self.last_edit.replace(edit.clone());
                vec![before.map_or(reply, Reply::Edit)]
            }
            (Some(Sabotage::HalfTheEdits), Reply::Edit(Edit::AddHeader { value, .. }))
                if value.ends_with(b"1 of 2") =>
            {
                Vec::new()
            }
            (Some(Sabotage::Silence), _) if is_word && self.chance.once_in(20) => Vec::new(),
            _ => vec![reply],
        }
    }

    /// The MTA says what comes next.
    pub(super) fn speak(&mut self, number: usize) -> Result<bool> {
        let now = self.now;
        let (vanishes, aborts) = (self.plan.vanishes, self.plan.aborts);
        let lane = &mut self.lanes[number];
        if lane.mta.is_gone() {
            return Ok(false);
        }
        if lane.mta.is_free() {
            return self.begin(number);
        }
        if !lane.session.wants_input() {
            return Ok(false);
        }
        if self.chance.once_in(aborts) {
            lane.mta.aborts();
        }
        let lane = &mut self.lanes[number];
        let Some(command) = lane.mta.next(now, &mut self.chance)? else {
            return Ok(false);
        };
        let taken = lane.session.command(command.clone(), now);
        self.tell(|| format!("{number}: MTA -> {command:?}"));
        taken.map_err(|error| Violation::new(2, format!("the MTA is told off: {error}")))?;
        if matches!(command, Command::Abort) {
            self.decided(number, Fate::Aborted)?;
        }
        if self.chance.once_in(vanishes) {
            let lane = &mut self.lanes[number];
            lane.session.closed(now);
            lane.mta.vanish();
            lane.ended = Some(now);
            self.tell(|| format!("{number}: MTA closes"));
            if self.lanes[number].mta.letter.is_some() {
                self.decided(number, Fate::Aborted)?;
            }
        }
        Ok(true)
    }

    /// Begins with a message, or ends the connection.
    fn begin(&mut self, number: usize) -> Result<bool> {
        let now = self.now;
        let letter = if self.lanes[number].left == 0 {
            None
        } else if let Some(at) = self.again.iter().position(|(at, ..)| *at <= now) {
            Some(self.again.swap_remove(at).1)
        } else if self.begun < self.plan.messages {
            self.begun += 1;
            let poison = self.chance.once_in(self.plan.poison);
            let count = self.members.len();
            let letter = match self.plan.script {
                Some(_) => Letter::plain(self.begun, count),
                None => Letter::new(self.begun, count, poison, &mut self.chance),
            };
            self.letters.insert(letter.name.clone(), Rc::clone(&letter));
            Some(letter)
        } else {
            None
        };
        let lane = &mut self.lanes[number];
        if let Some(letter) = letter {
            lane.left -= 1;
            lane.attempts.iter_mut().for_each(|attempt| *attempt = None);
            lane.mta.begin(&letter, now);
            self.figures.messages += 1;
            self.tell(|| format!("{number}: message {letter:?}"));
            return Ok(true);
        }
        let commands = lane.mta.quit();
        lane.ended = Some(now);
        for command in commands {
            let taken = lane.session.command(command, now);
            taken.map_err(|error| Violation::new(2, format!("at the end: {error}")))?;
        }
        self.tell(|| format!("{number}: MTA quits"));
        Ok(true)
    }

    /// A message is over: whether all holds of it.
    fn decided(&mut self, number: usize, fate: Fate) -> Result<()> {
        let lane = &mut self.lanes[number];
        let Some(letter) = lane.mta.letter.take() else {
            return Ok(());
        };
        for (line, attempt) in lane.lines.iter().zip(&mut lane.attempts) {
            let of_line = line.as_ref().and_then(|line| line.attempt.clone());
            if of_line.is_some() {
                attempt.clone_from(&of_line);
            }
        }
        let lane = &self.lanes[number];
        let witnesses = self.witnesses(lane, &letter);
        if self.plan.sabotage == Some(Sabotage::Forgetful) {
            let healths = self.members.iter().map(|member| &member.health);
            healths.for_each(|health| health.isolation().forget());
        }
        let edits = &lane.mta.delivery.edits;
        let of = |index: &usize| edits.iter().any(|edit| check::is_mark(edit, *index));
        self.outcomes.push(Outcome {
            word: match &fate {
                Fate::Passed => Some(Verdict::Continue),
                Fate::Refused(word) => Some(word.clone()),
                Fate::Aborted => None,
            },
            marks: (0..self.members.len()).filter(of).collect(),
            held: edits
                .iter()
                .any(|edit| matches!(edit, Edit::Quarantine { .. })),
        });
        match fate {
            Fate::Passed => {
                self.figures.passed += 1;
                for index in check::passed(&lane.mta.delivery, &witnesses)? {
                    self.unseen[index] += 1;
                }
            }
            Fate::Refused(word) => {
                self.figures.refused += 1;
                check::refused(&letter.name, &word, &witnesses)?;
                let for_now = match &word {
                    Verdict::TempFail => true,
                    Verdict::Reply(reply) => reply.as_bytes().starts_with(b"4"),
                    _ => false,
                };
                let tries = self.tries.entry(letter.name.clone()).or_default();
                if for_now && *tries < 2 && self.plan.script.is_none() {
                    *tries += 1;
                    let at = self.now + Duration::from_secs(1 + self.chance.below(60));
                    self.again.push((at, letter, 0));
                }
            }
            Fate::Aborted => self.figures.aborted += 1,
        }
        Ok(())
    }

    /// What each filter has to say of a message that is over.
    fn witnesses<'a>(&self, lane: &'a Lane, letter: &Letter) -> Vec<Witness<'a>> {
        let own = |attempt: &&Attempt| attempt.message == letter.name;
        let deaf =
            |process: &Process, step| lane.mta.leaves_out(step) || process.steps.contains(step);
        let filters = self.processes.iter().enumerate();
        filters
            .map(|(index, process)| Witness {
                attempt: lane.attempts[index].as_ref().filter(own),
                group: self.plan.groups[index],
                policy: self.members[index].on_failure,
                troubled: self.is_excused(index, letter, lane.mta.began),
                deaf: (
                    deaf(process, Steps::NO_HEADERS),
                    deaf(process, Steps::NO_BODY),
                ),
            })
            .collect()
    }

    /// Whether a filter may have failed on a message: something was wrong with it meanwhile. Where
    /// nothing but poison is wrong, it is the message that kills it.
    fn is_excused(&self, index: usize, letter: &Letter, since: Instant) -> bool {
        let poison = letter.poison.is_some_and(|(filter, _)| filter == index);
        if self.plan.only_poison {
            let hopeless = self.processes[index].was_hopeless(since);
            return poison || hopeless || self.is_mixed(index);
        }
        let comes_again = self.tries.contains_key(&letter.name);
        let known = comes_again && self.remembers(index);
        poison || known || self.processes[index].was_troubled(since)
    }

    /// Whether several messages kill a filter, which may be taken for each other.
    pub(super) fn is_mixed(&self, index: usize) -> bool {
        let kills = |letter: &&Rc<Letter>| letter.poison.is_some_and(|(filter, _)| filter == index);
        self.letters.values().filter(kills).count() > 1
    }

    /// Whether a filter remembers messages that have crashed it; any that came before may be one.
    fn remembers(&self, index: usize) -> bool {
        let crashes = self.members[index].health.counters().read().crashes_total;
        crashes.get(&Crash::Poison).is_some_and(|count| *count > 0)
    }
}
